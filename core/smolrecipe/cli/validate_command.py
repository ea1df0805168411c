"""``smolrecipe validate``: is a recipe right."""

from __future__ import annotations

import click

from smolrecipe.cli.lacking import lacking_of, note_lacking, note_what_is_dropped
from smolrecipe.cli.session import Session, recipe_arguments, sweep_option
from smolrecipe.running.machine import lacking


@click.command(
    short_help="Check a recipe without running it.",
    epilog="\b\nExamples:\n  smolrecipe validate recipes/mine.yaml\n"
    "  smolrecipe validate smollm3 --set stages.sft.epochs=2",
)
@recipe_arguments
@sweep_option
@click.pass_obj
def validate(session: Session, recipe: str, settings: tuple[str, ...], sweeps: tuple[str, ...]) -> None:
    """Check a recipe without running it: keys, types, components, data and the order of stages."""
    if sweep := session.sweep(recipe, settings, sweeps):
        note_what_is_dropped(sweep)
        file = sweep.variants[0].plan.recipe.file
        click.echo(f"{file}: valid, {len(sweep.variants)} variants, {len(sweep.stages)} stages")
        note_lacking(lacking_of(sweep, [swept.stage for swept in sweep.stages]))
        return
    plan = session.plan(recipe, settings)
    click.echo(f"{plan.recipe.file}: valid, {len(plan.stages)} stages")
    note_lacking(lacking(plan, plan.stages))
