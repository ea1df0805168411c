"""What a plan asks of the machine, held against what its launcher can start."""

from __future__ import annotations

from collections.abc import Iterable

from smolrecipe.components import Devices
from smolrecipe.errors import Problem
from smolrecipe.planning.plan import Plan, PlannedStage


def machine_problems(plan: Plan, stages: Iterable[PlannedStage]) -> list[Problem]:
    """One problem that names the largest need which the launcher cannot meet, and the recipe to try instead."""
    launcher = plan.recipe.launcher
    capacity = launcher.component.capacity(launcher.options)
    if capacity is None:
        return []
    lacking = [stage for stage in stages if _lacks(stage.devices, capacity)]
    if not lacking:
        return []
    largest = max(lacking, key=lambda stage: stage.devices.processes)
    available = capacity.get(largest.devices.device, 0)
    memory = f" of {largest.devices.memory_gib:g} GiB" if largest.devices.memory_gib else ""
    instead = (
        f"; '{plan.recipe.try_instead}' is the same pipeline at a size for this machine"
        if plan.recipe.try_instead
        else ""
    )
    return [
        Problem(
            f"stage '{largest.name}' asks for {largest.devices.processes} {_unit(largest.devices)}{memory}, "
            f"and launcher '{launcher.name}' finds {available or 'none'} here{instead}",
            largest.place,
        )
    ]


def _lacks(devices: Devices, capacity: object) -> bool:
    assert isinstance(capacity, dict) or hasattr(capacity, "get")
    limit = capacity.get(devices.device)
    return limit is not None and devices.processes > limit


def _unit(devices: Devices) -> str:
    return "GPUs" if devices.device == "cuda" else "processes"
