"""``smolrecipe validate`` and ``smolrecipe plan``: is a recipe right, what would run, and what would it take."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import click

from smolrecipe.cli.dry_run import Speed, dry_run, print_dry_run
from smolrecipe.cli.session import Session, json_option, recipe_arguments, store_of, store_option
from smolrecipe.cli.tables import print_table
from smolrecipe.planning.plan import Plan, PlannedStage
from smolrecipe.running.machine import lacking
from smolrecipe.running.store import RunStore

_NOTES = 5


@click.command()
@recipe_arguments
@click.pass_obj
def validate(session: Session, recipe: str, settings: tuple[str, ...]) -> None:
    """Check a recipe without running it: keys, types, components, data and the order of stages."""
    plan = session.plan(recipe, settings)
    click.echo(f"{plan.recipe.file}: valid, {len(plan.stages)} stages")
    _note_what_is_lacking(plan, plan.stages)


@click.command()
@recipe_arguments
@store_option
@json_option
@click.option(
    "--dry-run",
    "build",
    is_flag=True,
    help="Also build the first device of every stage's layout, without weights: memory, FLOPs and days.",
)
@click.option(
    "--mfu",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.286,
    show_default=True,
    help="The share of --peak-tflops that training reaches. SmolLM3's 13,985 tokens per second and H100 come to 0.286.",
)
@click.option(
    "--peak-tflops",
    type=click.FloatRange(0, min_open=True),
    default=989.5,
    show_default=True,
    help="Peak speed of a device in the stage's precision; an H100's dense bfloat16 by default.",
)
@click.pass_obj
def plan(
    session: Session,
    recipe: str,
    settings: tuple[str, ...],
    runs: Path,
    as_json: bool,
    build: bool,
    mfu: float,
    peak_tflops: float,
) -> None:
    """Show the stages in the order in which they run, what would run now, and what it would take."""
    planned = session.plan(recipe, settings)
    store = store_of(planned.recipe, runs)
    speed = Speed(mfu=mfu, peak_tflops=peak_tflops)
    if as_json:
        listing = [
            {
                "stage": stage.name,
                "kind": stage.use.name,
                "status": _status(store, stage),
                "digest": stage.digest,
                "consumes": list(stage.parents),
                "processes": stage.devices.processes,
                "device": stage.devices.device,
                "folder": str(store.published(stage)),
            }
            for stage in planned.stages
        ]
        told = {"recipe": planned.recipe.name, "stages": listing}
        if build:
            told["dry_run"] = [found.as_json(speed) for found in dry_run(session, planned, recipe, settings)]
        click.echo(json.dumps(told, indent=2))
        return
    rows = [
        (
            stage.name,
            stage.use.name,
            ", ".join(stage.parents),
            _devices(stage),
            stage.digest[:12],
            _status(store, stage),
        )
        for stage in planned.stages
    ]
    print_table(("stage", "kind", "consumes", "runs on", "digest", "status"), rows, title=planned.recipe.name)
    _note_what_is_lacking(planned, [stage for stage in planned.stages if not store.is_published(stage)])
    if build:
        click.echo()
        print_dry_run(dry_run(session, planned, recipe, settings), speed)


def _note_what_is_lacking(plan: Plan, stages: Iterable[PlannedStage]) -> None:
    """Say what keeps a valid recipe from running on this machine, the first few things of it."""
    problems = lacking(plan, stages)
    for problem in problems[:_NOTES]:
        click.echo(f"not on this machine: {problem}", err=True)
    if len(problems) > _NOTES:
        click.echo(f"not on this machine: {len(problems) - _NOTES} more like these; 'run' lists them all", err=True)


def _status(store: RunStore, stage: PlannedStage) -> str:
    if store.is_published(stage):
        return "published"
    return "half done" if store.partial(stage).exists() else "to run"


def _devices(stage: PlannedStage) -> str:
    count, device = stage.devices.processes, stage.devices.device
    if device == "cuda":
        return f"{count} GPU{'s' if count > 1 else ''}"
    return f"{count} CPU processes" if count > 1 else "CPU"
