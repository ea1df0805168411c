"""``smolrecipe run``: run a recipe, show its progress, and end with what it measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from smolrecipe.cli.held_run import command_line, grace_option, held
from smolrecipe.cli.lock_command import locked_options, refuse_drift, refuse_sweep
from smolrecipe.cli.measures import MEASURES_FILE, measures_of, print_measures
from smolrecipe.cli.session import Session, json_option, recipe_arguments, store_of, store_option, sweep_option
from smolrecipe.cli.sweep_command import run_variants
from smolrecipe.cli.views import make_view
from smolrecipe.errors import RecipeError
from smolrecipe.running.inputs import Check, Inputs
from smolrecipe.running.machine import lacking
from smolrecipe.running.runner import Runner


@click.command(
    epilog="\b\nExamples:\n  smolrecipe run smollm3-tiny\n"
    "  smolrecipe run recipes/mine.yaml --locked      only as 'smolrecipe lock' has written it down"
)
@recipe_arguments
@sweep_option
@store_option
@json_option
@locked_options
@grace_option
@click.option(
    "--inputs",
    "check",
    type=click.Choice(["full", "sizes"]),
    default="full",
    show_default=True,
    help="How to check what a stage uses before it starts. 'sizes' reads no file whose size is right, for terabytes of "
    "tokens that are read for hours: bytes that were changed are not found then, by this run.",
)
@click.pass_obj
def run(
    session: Session,
    recipe: str,
    settings: tuple[str, ...],
    sweeps: tuple[str, ...],
    runs: Path,
    as_json: bool,
    locked: bool,
    lock_file: Path | None,
    check: Check,
    grace: float,
) -> None:
    """Run a recipe, or all variants of one. Published stages are skipped, a half-done one goes on where it stopped.

    Where one of a stage's processes dies, the others are gone 90 seconds later at the latest.
    """
    if locked:
        refuse_sweep(session, recipe, settings, sweeps, "--locked")
        refuse_drift(session, recipe, session.plan(recipe, settings), lock_file)
    elif lock_file is not None:
        raise click.UsageError("--lock names the file for --locked: give both")
    if sweep := session.sweep(recipe, settings, sweeps):
        run_variants(session, sweep, runs, as_json=as_json, check=check, grace=grace)
        return
    plan = session.plan(recipe, settings)
    store = store_of(plan.recipe, runs)
    to_run = [stage for stage in plan.stages if not store.is_published(stage)]
    if problems := lacking(plan, to_run):
        raise RecipeError(problems)
    with held(store) as lock, make_view(plan) as view:
        outcomes = Runner(
            plan=plan,
            store=store,
            catalog=session.registry.catalog,
            view=view,
            plugins=session.plugins,
            inputs=Inputs(store=store, check=check),
            command=command_line(),
            grace=grace,
            inherit=(lock.descriptor,),
        ).run()
        measures = measures_of(outcomes)
        store.write(MEASURES_FILE, measures)
    last = store.published(plan.stages[-1])
    if as_json:
        click.echo(json.dumps(_summary(outcomes, store.root, measures), indent=2))
        return
    print_measures(measures)
    click.echo(f"{len(outcomes)} stages, {sum(outcome.ran for outcome in outcomes)} run now; the last artifact: {last}")


def _summary(outcomes: list[Any], root: Path, measures: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "store": str(root),
        "stages": [
            {
                "stage": outcome.stage.name,
                "folder": str(root / outcome.stage.folder_name),
                "ran": outcome.ran,
                "seconds": outcome.record["seconds"],
            }
            for outcome in outcomes
        ],
        "measures": measures,
    }
