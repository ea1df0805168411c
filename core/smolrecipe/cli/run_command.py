"""``smolrecipe run``: run a recipe, show its progress, and end with what it measured."""

from __future__ import annotations

import json
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import click

from smolrecipe.cli.held_run import command_line, grace_option, held
from smolrecipe.cli.lock_command import hold_to_lock, locked_options, refuse_sweep
from smolrecipe.cli.measures import MEASURES_FILE, measures_of, print_measures
from smolrecipe.cli.session import Session, json_option, recipe_arguments, store_of, store_option, sweep_option
from smolrecipe.cli.views import make_view
from smolrecipe.completing import complete_stage
from smolrecipe.errors import RecipeError, near_miss
from smolrecipe.planning.plan import Plan, PlannedStage
from smolrecipe.recipe.wording import readable
from smolrecipe.running.inputs import Check, Inputs
from smolrecipe.running.machine import lacking
from smolrecipe.running.run_lock import hold_common
from smolrecipe.running.runner import Outcome, Runner
from smolrecipe.running.store import RunStore


@click.command(
    epilog="\b\nExamples:\n  smolrecipe run smollm3-tiny\n"
    "  smolrecipe run mine.yaml --set stages.sft.epochs=2\n"
    "  smolrecipe run mine.yaml --locked      as 'smolrecipe lock' wrote it down\n"
    "  smolrecipe run mine.yaml --only sft    one stage, as jobs of a cluster do"
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
@click.option(
    "--only",
    metavar="STAGE",
    shell_complete=complete_stage,
    help="Run this one stage; those that it uses have to be published. Several processes, on one machine or on many "
    "that share the run store, may run different stages of a recipe at once.",
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
    only: str | None,
) -> None:
    """Run a recipe, or all variants of one. Published stages are skipped, a half-done one goes on where it stopped.

    Where one of a stage's processes dies, the others are gone 90 seconds later at the latest.
    """
    if only is not None:
        refuse_sweep(session, recipe, settings, sweeps, "--only")
    if locked:
        refuse_sweep(session, recipe, settings, sweeps, "--locked")
    hold_to_lock(session, recipe, settings, locked=locked, lock_file=lock_file)
    if sweep := session.sweep(recipe, settings, sweeps):
        from smolrecipe.cli.sweep_command import run_variants

        run_variants(session, sweep, runs, as_json=as_json, check=check, grace=grace)
        return
    plan = session.plan(recipe, settings)
    store = store_of(plan.recipe, runs)
    chosen = None if only is None else _chosen(plan, store, only)
    to_run = [stage for stage in (plan.stages if chosen is None else (chosen,)) if not store.is_published(stage)]
    if problems := lacking(plan, to_run):
        raise RecipeError(problems)
    with held(store, chosen) as lock, make_view(plan) as view:
        alone = nullcontext if chosen is None else partial(hold_common, store.root)
        runner = Runner(
            plan=plan,
            store=store,
            catalog=session.registry.catalog,
            view=view,
            plugins=session.plugins,
            inputs=Inputs(store=store, check=check),
            command=command_line(),
            grace=grace,
            inherit=lock.inherited,
            alone=alone,
        )
        outcomes = runner.run() if chosen is None else [runner.complete(chosen)]
        with alone():
            # Of a stage that others run meanwhile, they write the measures: they come after this.
            measures = measures_of(outcomes if chosen is None else _published(plan, store))
            store.write(MEASURES_FILE, measures)
    last = store.published(chosen or plan.stages[-1])
    if as_json:
        click.echo(json.dumps(_summary(outcomes, store.root, measures), indent=2))
        return
    print_measures(measures if chosen is None else measures_of(outcomes))
    ran = sum(outcome.ran for outcome in outcomes)
    if chosen is not None:
        click.echo(f"stage '{chosen.name}' {'is published' if ran else 'was published already'}: {last}")
        return
    click.echo(f"{len(outcomes)} stages, {ran} run now; the last artifact: {last}")


def _chosen(plan: Plan, store: RunStore, name: str) -> PlannedStage:
    """The stage that is to be run alone.

    Raises:
        RecipeError: when there is none of that name, or it uses what is not published.
    """
    stage = plan.by_name.get(name)
    if stage is None:
        hint = near_miss(name, plan.by_name) or f"; its stages: {', '.join(plan.by_name)}"
        raise RecipeError([readable(f"recipe '{plan.recipe.name}' has no stage '{name}' for --only{hint}")])
    lacks = [parent for parent in stage.parents if not store.is_published(plan.by_name[parent])]
    if lacks and not store.is_published(stage):
        raise RecipeError(
            [
                f"stage '{name}' uses {' and '.join(map(repr, lacks))}, which {store.root} does not have as this "
                "recipe makes it: run that first, with --only or without"
            ]
        )
    return stage


def _published(plan: Plan, store: RunStore) -> list[Outcome]:
    """All stages that are published, as a run that finds them so tells of them."""
    there = [stage for stage in plan.stages if store.is_published(stage)]
    return [Outcome(stage=stage, record=store.record(stage), ran=False) for stage in there]


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
