"""``smolrecipe run --sweep``: all variants of a recipe, every stage once, and one table of what they measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import click

from smolrecipe.cli.held_run import command_line, held
from smolrecipe.cli.lacking import lacking_of, note_what_is_dropped
from smolrecipe.cli.measures import MEASURES_FILE
from smolrecipe.cli.session import Session, store_of
from smolrecipe.cli.side_by_side import Cell, print_side_by_side, rows_of
from smolrecipe.cli.views import make_view
from smolrecipe.errors import RecipeError, UserError
from smolrecipe.planning.plan import Plan, PlannedStage
from smolrecipe.planning.variants import SweepPlan
from smolrecipe.running.inputs import Check, Inputs
from smolrecipe.running.runner import Runner, RunView
from smolrecipe.running.store import RunStore
from smolrecipe.running.sweep import SweptOutcome, run_sweep


def run_variants(session: Session, sweep: SweepPlan, runs: Path, *, as_json: bool, check: Check, grace: float) -> None:
    """Run a sweep and end with what its variants measured.

    Raises:
        RecipeError: when this machine lacks something that a variant needs; nothing has run then.
        UserError: when a variant failed; the others have run.
    """
    store = store_of(sweep.variants[0].plan.recipe, runs)
    to_run = [swept.stage for swept in sweep.stages if not store.is_published(swept.stage)]
    if problems := lacking_of(sweep, to_run):
        raise RecipeError(problems)
    note_what_is_dropped(sweep)
    shown = _labelled(sweep)
    inputs = Inputs(store=store, check=check)
    shown_plan = Plan(recipe=sweep.variants[0].plan.recipe, stages=tuple(shown.values()))
    with held(store) as lock, make_view(shown_plan) as view:
        outcomes = run_sweep(
            sweep,
            lambda plan: Runner(
                plan=plan,
                store=store,
                catalog=session.registry.catalog,
                view=_LabellingView(view, shown),
                plugins=session.plugins,
                inputs=inputs,
                command=command_line(),
                grace=grace,
                inherit=(lock.descriptor,),
            ),
            failed=lambda swept, error: click.echo(f"{swept.label}: failed: {error}", err=True),
        )
        measures = [
            {"stage": done.swept.stage.name, "variants": list(done.swept.variants), **measure}
            for done in outcomes
            if done.outcome is not None
            for measure in done.outcome.record["measures"]
        ]
        store.write(MEASURES_FILE, measures)
    if as_json:
        click.echo(json.dumps(_as_json(sweep, store, outcomes), indent=2, ensure_ascii=False))
    else:
        _print_outcomes(sweep, outcomes)
    failed = [planned.name for planned in sweep.variants if _failures(planned.name, outcomes)]
    if failed:
        raise UserError(f"{len(failed)} of {len(sweep.variants)} variants failed: {', '.join(failed)}")


def _labelled(sweep: SweepPlan) -> dict[tuple[str, str], PlannedStage]:
    """The stages under names that tell those of different variants apart."""
    return {
        (swept.stage.name, swept.stage.digest): attrs.evolve(swept.stage, name=swept.label) for swept in sweep.stages
    }


class _LabellingView(RunView):
    """Shows stages with the variants that they belong to."""

    def __init__(self, view: RunView, shown: Mapping[tuple[str, str], PlannedStage]) -> None:
        self._view = view
        self._shown = shown

    def skipped(self, stage: PlannedStage) -> None:
        self._view.skipped(self._of(stage))

    def started(self, stage: PlannedStage, goes_on: bool, saved: int | None) -> None:
        self._view.started(self._of(stage), goes_on, saved)

    def event(self, stage: PlannedStage, event: Mapping[str, Any]) -> None:
        self._view.event(self._of(stage), event)

    def finished(self, stage: PlannedStage, record: Mapping[str, Any]) -> None:
        self._view.finished(self._of(stage), record)

    def _of(self, stage: PlannedStage) -> PlannedStage:
        return self._shown[stage.name, stage.digest]


def _of_variant(name: str, outcomes: Sequence[SweptOutcome]) -> list[SweptOutcome]:
    return [done for done in outcomes if name in done.swept.variants]


def _failures(name: str, outcomes: Sequence[SweptOutcome]) -> list[SweptOutcome]:
    return [done for done in _of_variant(name, outcomes) if done.outcome is None]


def _print_outcomes(sweep: SweepPlan, outcomes: Sequence[SweptOutcome]) -> None:
    """Print the measures of the stages that not all variants share, what failed, and the count."""
    columns, words = [], []
    for planned in sweep.variants:
        own = [done for done in _of_variant(planned.name, outcomes) if len(done.swept.variants) < len(sweep.variants)]
        columns.append(
            {
                (done.swept.stage.name, measure["name"]): Cell(measure=measure, parents=done.outcome.record["parents"])
                for done in own
                if done.outcome is not None
                for measure in done.outcome.record["measures"]
            }
        )
        words.append({done.swept.stage.name: _word(done) for done in own if done.outcome is None})
    rows = rows_of(columns, words)
    if rows:
        print_side_by_side([planned.name for planned in sweep.variants], rows)
    for done in outcomes:
        if done.failure:
            click.echo(f"failed: {done.swept.label}: {done.failure}")
        elif done.waits_for:
            click.echo(f"not run: {done.swept.label}, which builds on {done.waits_for}")
    ran = sum(done.outcome is not None and done.outcome.ran for done in outcomes)
    shared = len(sweep.shared)
    click.echo(f"{len(sweep.variants)} variants of {len(outcomes)} stages, {shared} shared by all; {ran} run now")


def _word(done: SweptOutcome) -> str:
    return "failed" if done.failure else "not run"


def _as_json(sweep: SweepPlan, store: RunStore, outcomes: Sequence[SweptOutcome]) -> dict[str, Any]:
    def stage(done: SweptOutcome) -> dict[str, Any]:
        told: dict[str, Any] = {"stage": done.swept.stage.name, "folder": str(store.published(done.swept.stage))}
        if done.outcome is None:
            return {**told, "ran": False, "failure": done.failure or None, "waits_for": done.waits_for or None}
        return {**told, "ran": done.outcome.ran, "seconds": done.outcome.record["seconds"]}

    return {
        "store": str(store.root),
        "variants": [
            {
                "variant": planned.name,
                "values": planned.variant.values,
                "failed": bool(_failures(planned.name, outcomes)),
                "stages": [stage(done) for done in _of_variant(planned.name, outcomes)],
                "measures": [
                    {"stage": done.swept.stage.name, **measure}
                    for done in _of_variant(planned.name, outcomes)
                    if done.outcome is not None
                    for measure in done.outcome.record["measures"]
                ],
            }
            for planned in sweep.variants
        ],
    }
