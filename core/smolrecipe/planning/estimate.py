"""Hours and cost of a plan's stages: operations, divided by what the GPUs are assumed to compute."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import frozen

from smolrecipe.components import Devices, Workload
from smolrecipe.planning.backtest import ErrorBar
from smolrecipe.planning.hardware import Assumptions
from smolrecipe.planning.workloads import flops_of, trains

_SECONDS_PER_HOUR = 3600.0


@frozen(kw_only=True)
class Estimate:
    """What a stage would take on its GPUs, without evaluation, interruptions and waiting."""

    hours: float
    gpu_hours: float
    cost: float
    """US dollars."""
    at_most: bool
    """Whether it is an upper bound because the stage's tokens are."""

    def share(self, part: float) -> Estimate:
        """Of a part of the stage's steps."""
        return Estimate(
            hours=self.hours * part, gpu_hours=self.gpu_hours * part, cost=self.cost * part, at_most=self.at_most
        )


def estimate(workload: Workload, devices: Devices, assumptions: Assumptions) -> Estimate | None:
    """Hours and cost of a stage; ``None`` where its work is not known, or its devices' speed is not.

    The peak speeds here are of bfloat16: a stage in float32 is estimated only where its user gives the peak.
    """
    flops = flops_of(workload)
    if flops is None or devices.device != "cuda":
        return None
    if workload.precision != "bfloat16" and not assumptions.peak_is_given:
        return None
    gpu_hours = flops / assumptions.flops_per_second / _SECONDS_PER_HOUR
    return Estimate(
        hours=gpu_hours / devices.processes,
        gpu_hours=gpu_hours,
        cost=gpu_hours * assumptions.price,
        at_most=workload.at_most,
    )


@frozen(kw_only=True)
class Total:
    """All that is still to be trained, and the stages on GPUs of which that is not known."""

    hours: float
    gpu_hours: float
    cost: float
    at_most: bool
    unknown: tuple[str, ...]
    """Stages that train."""
    besides: tuple[str, ...]
    """Stages that do something else on GPUs, as evaluation does."""

    def between(self, value: float, bar: ErrorBar) -> tuple[float, float]:
        """The ends of the error bar of ``value``."""
        return value * bar.low, value * bar.high


@frozen(kw_only=True)
class Part:
    """A stage, as far as the total needs it."""

    name: str
    workload: Workload
    devices: Devices
    estimate: Estimate | None
    done: float = 0.0
    """The share that is there already, 1 of a published stage."""


def total(parts: Iterable[Part]) -> Total:
    """Add up what is left of stages."""
    to_do = [part for part in parts if part.done < 1]
    left = [part.estimate.share(1 - part.done) for part in to_do if part.estimate is not None]
    unknown = [
        part
        for part in to_do
        if part.estimate is None and part.devices.device == "cuda" and not _states_hours(part.workload)
    ]
    return Total(
        hours=sum(item.hours for item in left),
        gpu_hours=sum(item.gpu_hours for item in left),
        cost=sum(item.cost for item in left),
        at_most=any(item.at_most for item in left),
        unknown=tuple(part.name for part in unknown if trains(part.workload)),
        besides=tuple(part.name for part in unknown if not trains(part.workload)),
    )


def _states_hours(workload: Workload) -> bool:
    """Whether the hours of a stage are told besides, see ``Generation``."""
    return workload.generates is not None and workload.generates.hours is not None
