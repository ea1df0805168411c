"""What is said of a recipe before it runs: what this machine lacks for it, and what variants do not take over."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import click

from smolrecipe.errors import Problem
from smolrecipe.planning.plan import PlannedStage
from smolrecipe.planning.variants import SweepPlan, by_variant
from smolrecipe.running.machine import lacking

_NOTES = 5


def note_lacking(problems: Sequence[Problem]) -> None:
    """Say what keeps a valid recipe from running on this machine, the first few things of it."""
    for problem in problems[:_NOTES]:
        click.echo(f"not on this machine: {problem}", err=True)
    if len(problems) > _NOTES:
        click.echo(f"not on this machine: {len(problems) - _NOTES} more like these; 'run' lists them all", err=True)


def note_what_is_dropped(sweep: SweepPlan) -> None:
    """Say which options a variant does not take over from the recipe, because their component is replaced."""
    dropped: dict[Problem, list[str]] = {}
    for planned in sweep.variants:
        for problem in planned.variant.dropped:
            dropped.setdefault(problem, []).append(planned.name)
    for problem in by_variant(dropped, len(sweep.variants)):
        click.echo(f"note: {problem}", err=True)


def lacking_of(sweep: SweepPlan, stages: Collection[PlannedStage]) -> list[Problem]:
    """What keeps ``stages`` of the sweep from running on this machine."""
    problems: dict[Problem, list[str]] = {}
    wanted = {(stage.name, stage.digest) for stage in stages}
    for planned in sweep.variants:
        own = [stage for stage in planned.plan.stages if (stage.name, stage.digest) in wanted]
        for problem in lacking(planned.plan, own):
            problems.setdefault(problem, []).append(planned.name)
    return by_variant(problems, len(sweep.variants))
