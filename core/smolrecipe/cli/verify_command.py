"""``smolrecipe verify``: what can be proven of a run, an artifact or a Hugging Face checkpoint, as a table."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import click
from attrs import asdict

from smolrecipe.cli.session import Session, json_option
from smolrecipe.cli.tables import print_table
from smolrecipe.completing import complete_run
from smolrecipe.errors import UserError
from smolrecipe.running.metrics import MetricsFollower, MetricsWriter
from smolrecipe.running.process import run_processes
from smolrecipe.verifying.targets import Target, find_targets
from smolrecipe.verifying.verify import verify as prove

_ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "", "GOMP_SPINCOUNT": "10000"}
"""Everything is computed on the CPU, where the same sums give the same bits; threads do not spin while they wait."""

EVENTS_FILE = "proofs.jsonl"
LOG_FILE = "log.txt"


@click.command(
    short_help="Prove what was published, claim by claim.",
    epilog="\b\nExamples:\n  smolrecipe verify runs/smollm3-tiny      exits with 1 if a claim fails\n"
    "  smolrecipe verify ./SmolLM3-3B           a checkpoint from anywhere",
)
@click.argument("path", metavar="RUN_OR_CHECKPOINT", type=click.Path(path_type=Path), shell_complete=complete_run)
@json_option
@click.pass_obj
def verify(session: Session, path: Path, as_json: bool) -> None:
    """Prove what was published: a run (runs/NAME), one artifact in it, or a Hugging Face checkpoint.

    Files against their checksums, weights and activations against transformers, masks, labels, schedules, merges and
    losses against what the recipe asked for, each by means independent of how it was made. Nothing is written.
    """
    targets = find_targets(path)
    folder = Path(tempfile.mkdtemp(prefix="smolrecipe-verify-"))
    found = _run(session, path, targets, folder)
    failed = [row for row in found if not row["holds"]]
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        _print(found)
    if not failed:
        shutil.rmtree(folder)
        return
    raise UserError(f"{len(failed)} of {len(found)} claims do not hold; the log of the checks: {folder / LOG_FILE}")


@click.command(name="_verify", hidden=True)
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("events", type=click.Path(path_type=Path))
@click.pass_obj
def verify_worker(session: Session, path: Path, events: Path) -> None:
    """Check one after the other in this process, and append what is found to a file."""
    registry = session.registry
    report = MetricsWriter(events)
    for target in find_targets(path):
        report({"target": target.label})
        for proof in prove(target, registry.catalog, registry.manager.hook):
            report({"target": target.label, "proof": asdict(proof)})


def _run(session: Session, path: Path, targets: Sequence[Target], folder: Path) -> list[dict[str, Any]]:
    """Let a process of its own check the targets, say how far it is, and return a row for each proof."""
    plugins = ["--plugins", ",".join(session.plugins)] if session.plugins is not None else []
    events = folder / EVENTS_FILE
    command = [sys.executable, "-m", "smolrecipe", *plugins, "_verify", str(path.absolute()), str(events)]
    progress = _Progress(MetricsFollower(events))
    code = run_processes(command, _ENVIRONMENT, folder / LOG_FILE, progress.look)
    progress.close()
    if code != 0:
        how = f"signal {-code}" + (" (out of memory?)" if code == -9 else "") if code < 0 else f"exit code {code}"
        note = f"its process ended with {how}"
        progress.rows.append(_row(progress.target or targets[0].label, {"claim": "it could be checked", "note": note}))
    return progress.rows


class _Progress:
    """Follows the checking process: one line for each target that is done."""

    def __init__(self, follower: MetricsFollower) -> None:
        self.rows: list[dict[str, Any]] = []
        self.target = ""
        self._follower = follower
        self._since = time.monotonic()

    def look(self) -> None:
        """Take in what has been found since the last look."""
        for event in self._follower.new_events():
            if "proof" in event:
                self.rows.append(_row(event["target"], event["proof"]))
            else:
                self.close()
                self.target, self._since = event["target"], time.monotonic()

    def close(self) -> None:
        """Say what came of the target before the next one."""
        if not self.target:
            return
        mine = [row["holds"] for row in self.rows if row["target"] == self.target]
        failed = f", {mine.count(False)} that do not hold" if False in mine else ""
        seconds = time.monotonic() - self._since
        click.echo(f"{self.target}: {len(mine)} claims checked in {seconds:.0f} s{failed}", err=True)


def _row(target: str, proof: Mapping[str, Any]) -> dict[str, Any]:
    return {"target": target, "holds": False, "measured": "", "bound": "", "note": "", **proof}


def _print(found: Sequence[Mapping[str, Any]]) -> None:
    """One table for each target, what fails once more with its note, and the count."""
    for target, rows in groupby(found, key=lambda row: row["target"]):
        lines = [("holds" if row["holds"] else "FAILS", row["claim"], row["measured"], row["bound"]) for row in rows]
        print_table(("", "claim", "measured", "bound"), lines, title=target)
        click.echo()
    for row in found:
        if not row["holds"]:
            click.echo(f"{row['target']}: {row['claim']}: does not hold. {row['note'] or row['measured']}")
    holding = sum(row["holds"] for row in found)
    click.echo(f"{holding} of {len(found)} claims hold")
