"""What ``smolrecipe plan`` tells programs."""

from __future__ import annotations

from typing import Any

from attrs import asdict

from smolrecipe.cli.plan_outlook import Outlook, StageOutlook, generation_cost
from smolrecipe.planning.backtest import ErrorBar
from smolrecipe.planning.estimate import Total
from smolrecipe.planning.plan import PlannedStage
from smolrecipe.planning.workloads import tokens_of
from smolrecipe.running.store import RunStore


def outlook_as_json(told: Outlook) -> dict[str, Any]:
    """All of it, for programs."""
    bar = told.bar
    return {
        "recipe": told.plan.recipe.name,
        "stages": [_stage_as_json(told, item) for item in told.stages],
        "left": left_as_json(told.left, bar),
        "assumptions": asdict(told.assumptions),
        "backtest": {
            "low": bar.low,
            "high": bar.high,
            "anchors": [
                {
                    "name": item.anchor.name,
                    "source": item.anchor.source,
                    "gpu_hours": item.anchor.gpu_hours,
                    "estimated_gpu_hours": item.estimated,
                    "error": item.error,
                }
                for item in bar.tried
            ],
        },
        "warnings": [
            {"message": problem.message, "written": str(problem.place) if problem.place is not None else None}
            for problem in told.questions
        ],
    }


def left_as_json(left: Total, bar: ErrorBar) -> dict[str, Any]:
    """The total, for programs."""
    return {
        "hours": left.hours,
        "hours_between": left.between(left.hours, bar),
        "gpu_hours": left.gpu_hours,
        "cost_usd": left.cost,
        "cost_usd_between": left.between(left.cost, bar),
        "at_most": left.at_most,
        "not_known": list(left.unknown),
        "besides": list(left.besides),
    }


def _stage_as_json(told: Outlook, item: StageOutlook) -> dict[str, Any]:
    found, workload = item.estimate, item.workload
    return {
        **stage_as_json(told.store, item.stage),
        "why": item.status,
        "step": item.why.checkpoint if item.why.checkpoint is not None else item.why.step,
        "tokens": tokens_of(workload),
        "at_most": workload.at_most,
        "steps": workload.steps,
        "row_length": workload.row_length,
        "rope_theta": item.theta,
        "gib_per_device": item.gib,
        "hours": found.hours if found is not None else None,
        "hours_between": [found.hours * told.bar.low, found.hours * told.bar.high] if found is not None else None,
        "gpu_hours": found.gpu_hours if found is not None else None,
        "cost_usd": found.cost if found is not None else None,
        "cost_usd_between": [found.cost * told.bar.low, found.cost * told.bar.high] if found is not None else None,
        "generates": None
        if workload.generates is None
        else {**asdict(workload.generates), "cost": generation_cost(item, told.assumptions)},
    }


def stage_as_json(store: RunStore, stage: PlannedStage) -> dict[str, Any]:
    """What is said of a stage of a sweep, too."""
    return {
        "stage": stage.name,
        "kind": stage.use.name,
        "status": stage_status(store, stage),
        "digest": stage.digest,
        "consumes": list(stage.parents),
        "processes": stage.devices.processes,
        "device": stage.devices.device,
        "folder": str(store.published(stage)),
    }


def stage_status(store: RunStore, stage: PlannedStage) -> str:
    """``published``, ``half done`` or ``to run``."""
    if store.is_published(stage):
        return "published"
    return "half done" if store.partial(stage).exists() else "to run"
