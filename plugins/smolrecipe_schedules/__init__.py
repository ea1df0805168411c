"""Learning-rate schedules: warmup-stable-decay, cosine, linear. Pure functions of the step; see ``curves``."""

from __future__ import annotations

from collections.abc import Iterable

from smolrecipe import Schedule, hookimpl
from smolrecipe_schedules.curves import cosine, linear, wsd
from smolrecipe_schedules.options import DecayOptions, WsdOptions, check_decay, check_wsd


@hookimpl
def smolrecipe_schedules() -> Iterable[Schedule]:
    """Offer ``wsd``, ``cosine`` and ``linear``."""
    yield Schedule(
        name="wsd",
        summary="warmup, a stable rate, then decay at the end",
        source="arXiv:2404.06395; nanotron lr_scheduler_builder",
        options=WsdOptions,
        check=check_wsd,
        factor=wsd,
        example={"warmup_steps": 100, "decay_start": 900, "decay_steps": 100},
    )
    yield Schedule(
        name="cosine",
        summary="warmup, then a cosine down to min_factor at the end",
        source="transformers get_cosine_with_min_lr_schedule_with_warmup",
        options=DecayOptions,
        check=check_decay,
        factor=cosine,
    )
    yield Schedule(
        name="linear",
        summary="warmup, then a line down to min_factor at the end",
        source="transformers get_linear_schedule_with_warmup",
        options=DecayOptions,
        check=check_decay,
        factor=linear,
    )
