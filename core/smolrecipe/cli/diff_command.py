"""``smolrecipe diff``: what differs between two recipes, runs or artifacts in meaning."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import click

from smolrecipe.cli.diff_text import print_comparison
from smolrecipe.cli.session import Session, json_option
from smolrecipe.comparing.arithmetic import Facts
from smolrecipe.comparing.changes import ABSENT, Change
from smolrecipe.comparing.compare import Comparison, compare
from smolrecipe.comparing.sides import Side, side_of_folder, side_of_plan
from smolrecipe.completing import complete_recipe_or_run
from smolrecipe.errors import Place


@click.command(
    short_help="Say what differs between two recipes, runs or artifacts.",
    epilog="\b\nExamples:\n  smolrecipe diff smollm3 smollm3-tiny            recipes\n"
    "  smolrecipe diff runs/mine runs/smollm3-tiny     runs, with their measures",
)
@click.argument("a", metavar="A", shell_complete=complete_recipe_or_run)
@click.argument("b", metavar="B", shell_complete=complete_recipe_or_run)
@json_option
@click.pass_obj
def diff(session: Session, a: str, b: str, as_json: bool) -> None:
    """Say what differs between two recipes, runs (runs/NAME) or artifacts: options, tokens, rates, measures.

    Values that are equal once defaults, 'extends' and files are resolved are no difference. Exits with 0 if nothing
    differs, with 1 if something does, with 2 for a recipe or a folder that cannot be compared.
    """
    comparison = compare(_side(session, a), _side(session, b))
    if as_json:
        click.echo(json.dumps(_as_json(comparison), indent=2, ensure_ascii=False))
    else:
        print_comparison(comparison)
    if not comparison.same:
        sys.exit(1)


def _side(session: Session, reference: str) -> Side:
    if Path(reference).is_dir():
        return side_of_folder(Path(reference), session.registry.catalog)
    plan = session.plan(reference, ())
    side = side_of_plan(plan, f"recipe {plan.recipe.name} ({plan.recipe.file})", session.registry.catalog)
    if ("sweep",) in plan.recipe.places:
        return attrs.evolve(side, notes=("its 'sweep' is left out: what is compared is the recipe itself",))
    return side


def _as_json(comparison: Comparison) -> dict[str, Any]:
    pairs = comparison.pairs
    return {
        "a": {"is": comparison.a.kind, "label": comparison.a.label, "notes": comparison.a.notes},
        "b": {"is": comparison.b.kind, "label": comparison.b.label, "notes": comparison.b.notes},
        "same": comparison.same,
        "only_in_a": [pair.name for pair in pairs if pair.b is None],
        "only_in_b": [pair.name for pair in pairs if pair.a is None],
        "renamed": [{"a": pair.a.name, "b": pair.b.name} for pair in pairs if pair.renamed and pair.a and pair.b],
        "changes": [_change(change) for change in comparison.changes],
        "facts": {
            stage: {"a": attrs.asdict(a), "b": attrs.asdict(b)}
            for stage, (a, b) in comparison.facts.items()
            if (a, b) != (Facts(), Facts())
        },
        "would_run_again": {
            stage: [{"kind": reason.kind, "what": reason.what} for reason in reasons]
            for stage, reasons in comparison.reasons.items()
        },
        "plugins": {name: {"a": _plugin(old), "b": _plugin(new)} for name, (old, new) in comparison.plugins.items()},
        "measures": [
            {"stage": stage, "measure": name, "a": a, "b": b} for (stage, name), (a, b) in comparison.measures.items()
        ],
    }


def _change(change: Change) -> dict[str, Any]:
    told: dict[str, Any] = {
        "stage": change.stage or None,
        "option": ".".join(map(str, change.path)),
        "component": change.component or None,
        "changes_results": change.has_effect,
    }
    if change.order:
        told["order"] = True
    for side, value, place in (("a", change.a, change.written_a), ("b", change.b, change.written_b)):
        if value is not ABSENT:
            told[side] = value
            told[f"{side}_written"] = _place(place)
    return told


def _place(place: Place | None) -> str | None:
    return str(place) if place is not None else None


def _plugin(identity: tuple[str, str]) -> Mapping[str, str]:
    version, source = identity
    return {"version": version, "source": source}
