"""``smolrecipe doctor``: what this machine can do, what is missing and how to install it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from smolrecipe.cli.session import Session, json_option, store_of, store_option
from smolrecipe.completing import complete_recipe


@click.command(
    short_help="Say what this machine can do, and what is missing.",
    epilog="\b\nExamples:\n  smolrecipe doctor                     this machine\n"
    "  smolrecipe doctor smollm3-tiny        whether that recipe could run here",
)
@click.argument("recipe", metavar="[RECIPE]", required=False, shell_complete=complete_recipe)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a value of the recipe.")
@store_option
@json_option
@click.pass_obj
def doctor(session: Session, recipe: str | None, settings: tuple[str, ...], runs: Path, as_json: bool) -> None:
    """Say what this machine can do, what is missing, and how to install it.

    With RECIPE also whether each of its stages could run here. Exits with 0 if what is asked for can run (RECIPE, or
    without one smolrecipe itself), with 1 if something lacks. What only some recipes need, such as a GPU or an engine,
    is a note and no lack by itself.
    """
    from smolrecipe.cli import doctor_engines
    from smolrecipe.cli.doctor_findings import Finding, print_findings
    from smolrecipe.cli.doctor_machine import look_at_hub, look_at_machine
    from smolrecipe.cli.doctor_recipe import look_at_stages
    from smolrecipe.cli.doctor_store import look_at_store

    plan = session.plan(recipe, settings) if recipe is not None else None
    told = doctor_engines.ask_torch()
    parts: dict[str, list[Finding]] = {
        "machine": list(look_at_machine()),
        "GPUs": list(doctor_engines.look_at_gpus(told)),
        "extras": list(doctor_engines.look_at_extras()),
        "kernels": list(doctor_engines.look_at_kernels(told)),
        "Hugging Face Hub": list(look_at_hub()),
        "run store": list(look_at_store(runs)),
    }
    aside = {name: found.error for name, found in session.registry.plugins.items() if found.error}
    if aside:
        parts["plugins"] = [
            Finding(subject=name, status="note", told=f"set aside: {error}", remedy="smolrecipe plugins --traceback")
            for name, error in aside.items()
        ]
    if plan is not None:
        parts[f"recipe {plan.recipe.name}"] = list(look_at_stages(plan, store_of(plan.recipe, runs), told))
    lacks = [finding for findings in parts.values() for finding in findings if finding.status == "lacks"]
    if as_json:
        listed = {part: [finding.as_json() for finding in findings] for part, findings in parts.items()}
        click.echo(json.dumps({"can_run": not lacks, "torch": told, **listed}, indent=2, ensure_ascii=False))
    else:
        for part, findings in parts.items():
            print_findings(part, findings)
        what = f"recipe '{plan.recipe.name}'" if plan is not None else "smolrecipe"
        verdict = f"{len(lacks)} lacking: {what} cannot run here as it is" if lacks else f"{what} can run here"
        click.echo(verdict)
    if lacks:
        sys.exit(1)
