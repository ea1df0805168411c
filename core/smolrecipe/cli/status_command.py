"""``smolrecipe status``: how far a run has come, from another terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import click

from smolrecipe.cli.session import json_option
from smolrecipe.cli.tables import print_table
from smolrecipe.completing import complete_run
from smolrecipe.running.memory import memory_text
from smolrecipe.running.pace import duration
from smolrecipe.running.progress import RunProgress, StageProgress, run_progress
from smolrecipe.running.redact import redact
from smolrecipe.running.run_lock import Holder
from smolrecipe.strict_json import printable

_QUIET_SECONDS = 120.0
"""How long a stage that is running says nothing before that is worth a word."""

_HEADINGS = ("stage", "status", "step", "loss", "tokens/s", "memory", "left")


@click.command(
    short_help="Say how far a run has come.",
    epilog="\b\nExamples:\n  smolrecipe status runs/smollm3-tiny\n"
    "  smolrecipe status runs/smollm3-tiny --watch     again and again, to its end",
)
@click.argument("run", type=click.Path(path_type=Path), shell_complete=complete_run)
@click.option("--watch", is_flag=True, help="Tell it again every few seconds, until nobody writes the run any more.")
@click.option(
    "--every", type=click.FloatRange(min=0.1), default=2.0, show_default=True, help="Seconds between two looks."
)
@json_option
def status(run: Path, watch: bool, every: float, as_json: bool) -> None:
    """Say how far the run in a folder (runs/<recipe>) has come, stage by stage.

    It only reads, and may be asked while the run is written, on any machine that sees the folder.
    """
    while True:
        found = run_progress(run)
        if watch and sys.stdout.isatty() and not as_json:
            click.clear()
        _print(found, as_json)
        if not watch or found.is_over:
            return
        time.sleep(every)


def _print(found: RunProgress, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(_as_json(found), ensure_ascii=False))
        return
    print_table(_HEADINGS, [_row(stage) for stage in found.stages], right=(2, 3, 4, 5, 6))
    click.echo("\n".join(_lines(found)))


def _row(stage: StageProgress) -> tuple[str, ...]:
    step = "-" if stage.step is None else f"{stage.step:,}/{stage.steps:,}"
    left = "-"
    if stage.status == "published" and stage.seconds is not None:
        left = f"took {duration(stage.seconds)}"
    elif stage.seconds_left is not None:
        left = duration(stage.seconds_left)
    memory = memory_text(stage.numbers).removeprefix("memory ") or "-"
    return (stage.stage, stage.status, step, _number(stage, "loss"), _number(stage, "tokens_per_second"), memory, left)


def _number(stage: StageProgress, name: str) -> str:
    return f"{stage.numbers[name]:.4g}" if name in stage.numbers else "-"


def _lines(found: RunProgress) -> Iterator[str]:
    """What the table has no room for: who writes the run, what failed, from where stages go on."""
    for stage in found.stages:
        if stage.status in ("failed", "damaged"):
            yield f"{stage.stage}: {redact(stage.message)}"
        if stage.status in ("failed", "interrupted"):
            kept = "no checkpoint was saved" if stage.checkpoint is None else f"goes on after step {stage.checkpoint}"
            yield f"{stage.stage}: {kept}; in {stage.folder}"
        quiet = None if stage.told is None else time.time() - stage.told
        if stage.status == "running" and quiet is not None and quiet > _QUIET_SECONDS:
            yield f"{stage.stage}: has told nothing for {duration(quiet)}"
    for writer in found.writers:
        gone = ", which is gone" if writer.is_dead else ", which may be gone" if found.is_lost(writer) else ""
        yield f"written by {_named(writer)}{gone}"
    if not found.writers:
        done = sum(stage.status == "published" for stage in found.stages)
        yield f"{found.folder}: {done} of {len(found.stages)} stages published, nobody writes it"


def _named(writer: Holder) -> str:
    return printable(redact(str(writer)))


def _as_json(found: RunProgress) -> dict[str, Any]:
    return {
        "run": str(found.folder),
        "over": found.is_over,
        "writers": [
            {**attrs.asdict(writer), "gone": writer.is_dead, "lost": found.is_lost(writer)} for writer in found.writers
        ],
        "stages": [{**attrs.asdict(stage), "folder": str(stage.folder)} for stage in found.stages],
    }
