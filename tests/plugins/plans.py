"""Plans without a recipe file: stages given as options, for tests of what plugins say of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smolrecipe import Launcher, NoOptions, StageKind, Use, Workload
from smolrecipe.errors import Place
from smolrecipe.planning.plan import Plan, PlannedStage, references
from smolrecipe.planning.workloads import workloads_of
from smolrecipe.recipe.recipe import Recipe

_HERE = Launcher(name="here", summary="", capacity=lambda options: None, command=lambda options, devices, worker: [])


def plan_of(stages: Mapping[str, tuple[StageKind, Any]]) -> Plan:
    """The plan of stages in the order given, each of a kind with options."""
    uses = {name: Use(kind, options) for name, (kind, options) in stages.items()}
    recipe = Recipe(name="r", file=Path("r.yaml"), stages=uses, launcher=Use(_HERE, NoOptions()))
    planned = tuple(
        PlannedStage(
            name=name,
            use=use,
            references=tuple(ref for ref in references(name, use) if ref.ref.stage in uses),
            devices=use.component.devices(use.options),
            produces={},
            digest=name,
            place=Place("r.yaml", 1, 1),
        )
        for name, use in uses.items()
    )
    return Plan(recipe=recipe, stages=planned)


def kind(name: str, workload: Workload = Workload()) -> StageKind:  # noqa: B008  it is frozen
    """A stage kind that amounts to something whatever its options are."""
    return StageKind(
        name=name,
        summary="",
        run=lambda options, context: None,
        produces=lambda options: {},
        workload=lambda options, parents: workload,
    )


def messages(hook: Any, plan: Plan, **arguments: Any) -> list[str]:
    """What a plugin's ``smolrecipe_warn_of_plan`` says of a plan."""
    return [problem.message for problem in hook(plan=plan, workloads=workloads_of(plan), **arguments)]
