"""The plan of a sweep: every variant's plan, and all their stages once.

Stages whose name and digest are equal are one stage, whichever variants they belong to.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import Factory, frozen

from smolrecipe.catalog import Catalog
from smolrecipe.errors import Problem, RecipeError
from smolrecipe.planning.make import make_plan
from smolrecipe.planning.plan import Plan, PlannedStage
from smolrecipe.recipe.structure import structure
from smolrecipe.recipe.sweep import Variant


@frozen(kw_only=True)
class PlannedVariant:
    """A variant and what it would run."""

    variant: Variant
    plan: Plan

    @property
    def name(self) -> str:
        """What sets it apart from the others."""
        return self.variant.name


@frozen(kw_only=True)
class SweptStage:
    """A stage of a sweep with the variants that it belongs to. ``plan`` is the first one's."""

    stage: PlannedStage
    plan: Plan
    variants: tuple[str, ...]
    scope: str
    """Which variants these are, as short as can be said: nothing for all, ``loss.use=dpo``, ``lr=1e-6``."""

    @property
    def label(self) -> str:
        """The stage's name with its scope."""
        return f"{self.stage.name} {self.scope}" if self.scope else self.stage.name


@frozen(kw_only=True)
class SweepPlan:
    """All variants of a recipe. ``stages`` has every stage once: those of all variants, then variant by variant."""

    variants: tuple[PlannedVariant, ...]
    stages: tuple[SweptStage, ...] = Factory(lambda self: _stages(self.variants), takes_self=True)

    @property
    def shared(self) -> tuple[SweptStage, ...]:
        """The stages of all variants."""
        return tuple(stage for stage in self.stages if len(stage.variants) == len(self.variants))

    def of(self, name: str) -> tuple[SweptStage, ...]:
        """The stages of one variant, every stage after those it consumes."""
        return tuple(stage for stage in self.stages if name in stage.variants)


def plan_variants(variants: Sequence[Variant], file: Path, catalog: Catalog, hook: Any) -> SweepPlan:
    """The plan of the variants of the recipe in ``file``; ``catalog`` and ``hook`` as for one plan.

    Raises:
        RecipeError: with the problems of all variants, each with the names of those that have it, and for variants
            that differ in nothing that changes a result.
    """
    planned: list[PlannedVariant] = []
    problems: dict[Problem, list[str]] = {}
    for variant in variants:
        try:
            plan = make_plan(structure(variant.node, file, catalog), catalog, hook)
            planned.append(PlannedVariant(variant=variant, plan=plan))
        except RecipeError as error:
            for problem in error.problems:
                problems.setdefault(problem, []).append(variant.name)
    if problems:
        raise RecipeError(by_variant(problems, len(variants)))
    if alike := list(_alike(planned)):
        raise RecipeError(alike)
    return SweepPlan(variants=tuple(planned))


def by_variant(problems: dict[Problem, list[str]], variants: int) -> list[Problem]:
    """The problems, each with the variants that have it, unless all of them do."""
    return [
        problem
        if len(names) == variants
        else Problem(f"variant{'s' * (len(names) > 1)} {', '.join(map(repr, names))}: {problem.message}", problem.place)
        for problem, names in problems.items()
    ]


def _alike(variants: Sequence[PlannedVariant]) -> list[Problem]:
    seen: dict[tuple[str, ...], str] = {}
    problems = []
    for planned in variants:
        identity = tuple(f"{stage.name}-{stage.digest}" for stage in planned.plan.stages)
        if identity in seen:
            problems.append(
                Problem(
                    f"variants '{seen[identity]}' and '{planned.name}' would make the same artifacts: what differs "
                    "between them changes no result (a value that is the default, a micro-batch, a device)"
                )
            )
        seen.setdefault(identity, planned.name)
    return problems


def _stages(variants: Sequence[PlannedVariant]) -> tuple[SweptStage, ...]:
    found: dict[tuple[str, str], list[tuple[PlannedVariant, PlannedStage]]] = {}
    for planned in variants:
        for stage in planned.plan.stages:
            found.setdefault((stage.name, stage.digest), []).append((planned, stage))
    stages = []
    for owners in found.values():
        first, stage = owners[0]
        mine = [planned for planned, _ in owners]
        stages.append(
            SweptStage(
                stage=stage,
                plan=first.plan,
                variants=tuple(planned.name for planned in mine),
                scope=_scope(mine, variants),
            )
        )
    # Stable: within one variant, and among what all share, the order is that of a plan.
    return tuple(sorted(stages, key=lambda stage: len(stage.variants) < len(variants)))


def _scope(mine: Sequence[PlannedVariant], variants: Sequence[PlannedVariant]) -> str:
    """What the variants have in common and no other has, in the words of their names."""
    if len(mine) == len(variants):
        return ""
    common = {
        key: label
        for key, label in mine[0].variant.labels.items()
        if all(planned.variant.labels[key] == label for planned in mine)
    }
    alike = [planned for planned in variants if common.items() <= planned.variant.labels.items()]
    # A key that this stage does not depend on has several values among its variants.
    return " ".join(common.values()) if len(alike) == len(mine) else ", ".join(planned.name for planned in mine)
