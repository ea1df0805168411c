"""``smolrecipe why``: would a stage run, and because of what."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from smolrecipe.cli.session import Session, json_option, recipe_arguments, store_of, store_option, sweep_option
from smolrecipe.cli.value_words import value_in_words
from smolrecipe.comparing.changes import ABSENT
from smolrecipe.comparing.sides import side_of_plan
from smolrecipe.comparing.why import Difference, Explained, Explainer, Why
from smolrecipe.completing import complete_stage
from smolrecipe.errors import RecipeError, near_miss
from smolrecipe.planning.plan import Plan, PlannedStage

_LONGEST = 60
"""Characters of a value."""


@click.command(
    short_help="Say why a stage would run, go on or be skipped.",
    epilog="\b\nExamples:\n  smolrecipe why smollm3-tiny            every stage\n"
    "  smolrecipe why smollm3-tiny apo        one, down to the root cause",
)
@recipe_arguments
@click.argument("stage", metavar="[STAGE]", required=False, shell_complete=complete_stage)
@sweep_option
@store_option
@json_option
@click.pass_obj
def why(
    session: Session,
    recipe: str,
    settings: tuple[str, ...],
    stage: str | None,
    sweeps: tuple[str, ...],
    runs: Path,
    as_json: bool,
) -> None:
    """Say why a stage would run, go on or be skipped: what differs from what is published of it, with the place.

    The nearest artifact in the run store is what it is compared with: options, plugins and their sources, data, and
    what it is made from, followed up to the stage where the difference starts.
    """
    planned = _stages(session, recipe, settings, sweeps)
    names = dict.fromkeys(own.name for _, _, own in planned)
    if stage is not None and stage not in names:
        hint = near_miss(stage, names) or f"; stages: {', '.join(names)}"
        raise RecipeError([f"the recipe has no stage '{stage}'{hint}"])
    explainers: dict[int, Explainer] = {}
    found: list[tuple[str, Why]] = []
    for label, plan, own in planned:
        if stage in (None, own.name):
            if id(plan) not in explainers:
                explainers[id(plan)] = Explainer(
                    side=side_of_plan(plan, plan.recipe.name, session.registry.catalog),
                    store=store_of(plan.recipe, runs),
                    catalog=session.registry.catalog,
                )
            found.append((label, explainers[id(plan)].explain(own)))
    if as_json:
        click.echo(json.dumps([_as_json(label, told) for label, told in found], indent=2, ensure_ascii=False))
        return
    for label, told in found:
        click.echo("\n".join(_lines(label, told, whole=stage is not None)))


def _stages(
    session: Session, recipe: str, settings: tuple[str, ...], sweeps: tuple[str, ...]
) -> list[tuple[str, Plan, PlannedStage]]:
    """The stages of the recipe, or of all its variants, each with a label and its plan."""
    if sweep := session.sweep(recipe, settings, sweeps):
        return [(swept.label, swept.plan, swept.stage) for swept in sweep.stages]
    plan = session.plan(recipe, settings)
    return [(stage.name, plan, stage) for stage in plan.stages]


def _lines(label: str, told: Why, *, whole: bool) -> Iterator[str]:
    """A stage in a few lines; ``whole`` with all that it is made from."""
    if told.status == "published":
        yield f"{label}: published since {told.since or 'an unknown time'} in {told.folder}"
        yield from (f"  without effect: {_told(difference)}" for difference in told.without_effect)
        return
    if told.status == "half done":
        yield f"{label}: would go on{_reached(told)} in {told.folder}"
    else:
        yield f"{label}: would run"
    for folder in told.abandoned:
        yield f"  half-done work with other values, from which it does not go on: {folder}"
    if told.nearest is None:
        yield f"  nothing of it is published in {told.folder.parent}"
        return
    yield f"  nearest in the run store: {told.nearest.artifact} of {told.nearest.started or 'an unknown time'}"
    own = list(_differences(told.nearest, whole=whole))
    yield from (f"  {line}" for line in own)
    if whole:
        yield from _ancestor_lines(told.because, set(own))


def _differences(explained: Explained, *, whole: bool) -> Iterator[str]:
    """A line for each difference; plugins in one where not all is asked for."""
    plugins = [difference.what for difference in explained.differences if difference.kind == "plugin"]
    short = not whole and len(plugins) > 1
    if short:
        yield f"plugins, version or source: {', '.join(plugins)}"
    for difference in explained.differences:
        if not (short and difference.kind == "plugin"):
            yield _told(difference)


def _ancestor_lines(ancestors: Sequence[Explained], told: set[str]) -> Iterator[str]:
    """What differs in the stages that it is made from and has not been told of another, nearest stage first."""
    for ancestor in ancestors:
        if ancestor.artifact is None:
            yield f"  {ancestor.stage}: the artifact that it was made from is not in the run store any more"
            continue
        links = {_told(difference) for difference in ancestor.differences if difference.kind == "parent"}
        new = [line for line in _differences(ancestor, whole=True) if line not in told | links]
        if new:
            yield f"  {ancestor.stage}, compared with {ancestor.artifact.name}:"
            yield from (f"    {line}" for line in new)
        told |= set(new)


def _reached(told: Why) -> str:
    if told.checkpoint is not None:
        return f" from its checkpoint of step {told.checkpoint}"
    return f" (it had reached step {told.step})" if told.step is not None else ""


def _told(difference: Difference) -> str:
    """A difference as a line: what, the old and the new value, the place."""
    arrow = f"{_text(difference.old)} -> {_text(difference.new)}"
    if difference.kind == "parent":
        return f"made from '{difference.what}', which would be another artifact"
    if difference.kind == "name":
        return f"published under another name: {arrow}"
    if difference.kind == "unknown":
        return f"{difference.what} (digest {arrow})"
    if difference.kind == "plugin":
        files = f" ({', '.join(difference.files)})" if difference.files else ""
        if ABSENT in (difference.old, difference.new):
            return f"plugin '{difference.what}': {arrow}"
        return f"plugin '{difference.what}', version or source: {arrow}{files}"
    if difference.kind == "data":
        return f"data behind {difference.what}: {arrow}{_place(difference)}"
    order = "order of " if difference.order else ""
    return f"{order}{difference.what}: {arrow}{_place(difference)}"


def _place(difference: Difference) -> str:
    if difference.place is not None:
        return f"  {difference.place}"
    return "" if difference.new is ABSENT else "  (default)"


def _text(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value):
        return value[:12]
    return value_in_words(value, _LONGEST)


def _as_json(label: str, told: Why) -> dict[str, Any]:
    return {
        "stage": told.stage,
        "label": label,
        "status": told.status,
        "folder": str(told.folder),
        "since": told.since or None,
        "step": told.step,
        "checkpoint": told.checkpoint,
        "nearest": _explained(told.nearest) if told.nearest is not None else None,
        "because": [_explained(ancestor) for ancestor in told.because],
        "without_effect": [_difference(difference) for difference in told.without_effect],
        "abandoned": [str(folder) for folder in told.abandoned],
    }


def _explained(explained: Explained) -> dict[str, Any]:
    return {
        "stage": explained.stage,
        "artifact": str(explained.artifact) if explained.artifact is not None else None,
        "started": explained.started or None,
        "differences": [_difference(difference) for difference in explained.differences],
    }


def _difference(difference: Difference) -> dict[str, Any]:
    told: dict[str, Any] = {"kind": difference.kind, "what": difference.what}
    for key, value in (("old", difference.old), ("new", difference.new)):
        if value is not ABSENT:
            told[key] = value
    if difference.place is not None:
        told["written"] = str(difference.place)
    if difference.order:
        told["order"] = True
    if difference.files:
        told["files"] = list(difference.files)
    return told
