"""What a plan asks of this machine and this machine lacks: devices, packages, data."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from smolrecipe.components import KINDS, Devices
from smolrecipe.errors import Problem
from smolrecipe.options import Use
from smolrecipe.planning.plan import Plan, PlannedStage
from smolrecipe.recipe.structure import all_uses
from smolrecipe.recipe.wording import readable


def lacking(plan: Plan, stages: Iterable[PlannedStage]) -> list[Problem]:
    """What keeps ``stages`` from running here. Where devices are lacking, that alone: the rest is another machine's."""
    stages = list(stages)
    return lacking_devices(plan, stages) or [*_lacking_packages(plan, stages), *_lacking_data(plan, stages)]


def lacking_devices(plan: Plan, stages: Iterable[PlannedStage]) -> list[Problem]:
    """One problem that names the largest need which the launcher cannot meet, and the recipe to try instead."""
    launcher = plan.recipe.launcher
    capacity = launcher.component.capacity(launcher.options)
    short = [stage for stage in stages if capacity is not None and _exceeds(stage.devices, capacity)]
    if capacity is None or not short:
        return []
    largest = max(short, key=lambda stage: stage.devices.processes)
    devices = largest.devices
    found = capacity.get(devices.device, 0)
    memory = f" of {devices.memory_gib:g} GiB" if devices.memory_gib else ""
    instead = plan.recipe.try_instead
    hint = f"; '{instead}' is the same pipeline at a size for this machine" if instead else ""
    return [
        Problem(
            f"stage '{largest.name}' asks for {devices.processes} {'GPUs' if devices.device == 'cuda' else 'processes'}"
            f"{memory}, and launcher '{launcher.name}' finds {found or 'none'} here{hint}",
            largest.place,
        )
    ]


def _exceeds(devices: Devices, capacity: Mapping[str, int]) -> bool:
    limit = capacity.get(devices.device)
    return limit is not None and devices.processes > limit


def _lacking_packages(plan: Plan, stages: list[PlannedStage]) -> Iterator[Problem]:
    """A problem for each component that runs on a package which is not installed."""
    told = set()
    for path, use in _uses(plan, stages):
        label = f"{KINDS[type(use.component)]} '{use.name}'"
        if label in told:
            continue
        told.add(label)
        missing = [module for module in use.component.requires if importlib.util.find_spec(module) is None]
        if not missing:
            continue
        extra = use.component.extra
        remedy = f"pip install 'smolrecipe[{extra}]'" if extra else f"pip install {' '.join(missing)}"
        yield Problem(f"{label} needs {', '.join(missing)}, which is not installed: {remedy}", plan.recipe.place(path))


def _lacking_data(plan: Plan, stages: list[PlannedStage]) -> Iterator[Problem]:
    for path, use in _uses(plan, stages):
        for message in use.component.missing(use.options):
            told = readable(f"{KINDS[type(use.component)]} '{use.name}': {message}")
            yield Problem(told, plan.recipe.place(path))


def _uses(plan: Plan, stages: list[PlannedStage]) -> Iterator[tuple[tuple[str | int, ...], Use[Any]]]:
    """The components that matter to one of the stages, with the path of each; what is no stage's matters to all."""
    names = {stage.name for stage in stages}
    return ((path, use) for path, use in all_uses(plan.recipe) if path[0] != "stages" or path[1] in names)
