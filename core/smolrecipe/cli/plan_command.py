"""``smolrecipe validate`` and ``smolrecipe plan``: is a recipe right, what would run, and what would it take."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from smolrecipe.cli.dry_run import Speed, dry_run, print_dry_run
from smolrecipe.cli.session import Session, json_option, recipe_arguments, store_of, store_option, sweep_option
from smolrecipe.cli.sweep_command import lacking_of, note_what_is_dropped
from smolrecipe.cli.tables import print_table
from smolrecipe.errors import Problem, RecipeError
from smolrecipe.planning.plan import PlannedStage
from smolrecipe.planning.variants import SweepPlan
from smolrecipe.running.machine import lacking
from smolrecipe.running.store import RunStore

_NOTES = 5


@click.command()
@recipe_arguments
@sweep_option
@click.pass_obj
def validate(session: Session, recipe: str, settings: tuple[str, ...], sweeps: tuple[str, ...]) -> None:
    """Check a recipe without running it: keys, types, components, data and the order of stages."""
    if sweep := session.sweep(recipe, settings, sweeps):
        note_what_is_dropped(sweep)
        file = sweep.variants[0].plan.recipe.file
        click.echo(f"{file}: valid, {len(sweep.variants)} variants, {len(sweep.stages)} stages")
        _note(lacking_of(sweep, [swept.stage for swept in sweep.stages]))
        return
    plan = session.plan(recipe, settings)
    click.echo(f"{plan.recipe.file}: valid, {len(plan.stages)} stages")
    _note(lacking(plan, plan.stages))


@click.command()
@recipe_arguments
@sweep_option
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
    sweeps: tuple[str, ...],
    runs: Path,
    as_json: bool,
    build: bool,
    mfu: float,
    peak_tflops: float,
) -> None:
    """Show the stages in the order in which they run, what would run now, and what it would take."""
    if sweep := session.sweep(recipe, settings, sweeps):
        _plan_sweep(sweep, store_of(sweep.variants[0].plan.recipe, runs), as_json=as_json, build=build)
        return
    planned = session.plan(recipe, settings)
    store = store_of(planned.recipe, runs)
    speed = Speed(mfu=mfu, peak_tflops=peak_tflops)
    if as_json:
        listing = [_as_json(store, stage) for stage in planned.stages]
        told: dict[str, Any] = {"recipe": planned.recipe.name, "stages": listing}
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
    _note(lacking(planned, [stage for stage in planned.stages if not store.is_published(stage)]))
    if build:
        click.echo()
        print_dry_run(dry_run(session, planned, recipe, settings), speed)


def _plan_sweep(sweep: SweepPlan, store: RunStore, *, as_json: bool, build: bool) -> None:
    if build:
        raise RecipeError(
            ["--dry-run builds one recipe, and this is a sweep: --set sweep=null, and one variant's values with --set"]
        )
    note_what_is_dropped(sweep)
    to_run = [swept.stage for swept in sweep.stages if not store.is_published(swept.stage)]
    if as_json:
        told = {
            "recipe": sweep.variants[0].plan.recipe.name,
            "variants": [{"variant": planned.name, "values": planned.variant.values} for planned in sweep.variants],
            "stages": [{**_as_json(store, swept.stage), "variants": list(swept.variants)} for swept in sweep.stages],
        }
        click.echo(json.dumps(told, indent=2, ensure_ascii=False))
        return
    rows = [
        (
            swept.stage.name,
            swept.stage.use.name,
            _devices(swept.stage),
            swept.stage.digest[:12],
            _status(store, swept.stage),
            swept.scope or f"all {len(sweep.variants)}",
        )
        for swept in sweep.stages
    ]
    title = f"{sweep.variants[0].plan.recipe.name}: {len(sweep.variants)} variants"
    print_table(("stage", "kind", "runs on", "digest", "status", "of variants"), rows, title=title)
    apart = sum(len(planned.plan.stages) for planned in sweep.variants)
    click.echo(f"{len(rows)} stages instead of {apart}, {len(to_run)} to run")
    _note(lacking_of(sweep, to_run))


def _as_json(store: RunStore, stage: PlannedStage) -> dict[str, Any]:
    return {
        "stage": stage.name,
        "kind": stage.use.name,
        "status": _status(store, stage),
        "digest": stage.digest,
        "consumes": list(stage.parents),
        "processes": stage.devices.processes,
        "device": stage.devices.device,
        "folder": str(store.published(stage)),
    }


def _note(problems: Sequence[Problem]) -> None:
    """Say what keeps a valid recipe from running on this machine, the first few things of it."""
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
