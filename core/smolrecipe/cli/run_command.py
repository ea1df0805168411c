"""``smolrecipe run``: run a recipe, show its progress, and end with what it measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from smolrecipe.cli.measures import MEASURES_FILE, measures_of, print_measures
from smolrecipe.cli.session import Session, json_option, recipe_arguments, store_of, store_option, sweep_option
from smolrecipe.cli.sweep_command import run_variants
from smolrecipe.cli.views import make_view
from smolrecipe.errors import RecipeError
from smolrecipe.running.machine import lacking
from smolrecipe.running.runner import Runner
from smolrecipe.running.store import write_json


@click.command()
@recipe_arguments
@sweep_option
@store_option
@json_option
@click.pass_obj
def run(
    session: Session, recipe: str, settings: tuple[str, ...], sweeps: tuple[str, ...], runs: Path, as_json: bool
) -> None:
    """Run a recipe, or all variants of one. Published stages are skipped, a half-done one goes on where it stopped."""
    if sweep := session.sweep(recipe, settings, sweeps):
        run_variants(session, sweep, runs, as_json=as_json)
        return
    plan = session.plan(recipe, settings)
    store = store_of(plan.recipe, runs)
    to_run = [stage for stage in plan.stages if not store.is_published(stage)]
    if problems := lacking(plan, to_run):
        raise RecipeError(problems)
    store.open()
    with make_view(plan) as view:
        outcomes = Runner(
            plan=plan, store=store, catalog=session.registry.catalog, view=view, plugins=session.plugins
        ).run()
    measures = measures_of(outcomes)
    write_json(store.root / MEASURES_FILE, measures)
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
