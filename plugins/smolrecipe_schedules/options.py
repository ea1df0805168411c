"""The options of the schedules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from attrs import frozen

from smolrecipe import option


@frozen(kw_only=True)
class WsdOptions:
    """Warmup, stable, decay, in steps of the whole trajectory, which may span several stages."""

    warmup_steps: int = option(at_least=0, doc="steps of linear warmup from 0; the peak is reached in the last of them")
    decay_start: int = option(at_least=1, doc="last step at the peak rate, from which the decay counts")
    decay_steps: int = option(at_least=1, doc="steps from decay_start until min_factor is reached")
    decay_style: Literal["linear", "cosine", "sqrt"] = option(
        default="linear",
        source="SmolLM3 stage1_8T.yaml",
        doc="shape of the decay; sqrt is 1 - sqrt(progress) (arXiv:2405.18392)",
    )
    min_factor: float = option(
        default=0.0,
        at_least=0,
        at_most=1,
        source="SmolLM3 stage1_8T.yaml",
        doc="where the decay ends, as a part of the peak",
    )


@frozen(kw_only=True)
class DecayOptions:
    """Warmup, then decay until the last step."""

    warmup_steps: int | None = option(
        default=None, at_least=0, doc="steps of linear warmup from 0; none where not given"
    )
    warmup_ratio: float | None = option(
        default=None, at_least=0, at_most=1, doc="warmup as a part of all steps, rounded up, instead of warmup_steps"
    )
    min_factor: float = option(
        default=0.0,
        at_least=0,
        at_most=1,
        doc="where the decay ends, as a part of the peak (transformers: min_lr_rate)",
    )


def check_wsd(options: WsdOptions) -> Iterator[str]:
    """Yield what is wrong with the steps taken together."""
    if options.decay_start < options.warmup_steps:
        yield f"decay_start ({options.decay_start}) lies within the warmup of {options.warmup_steps} steps"


def check_decay(options: DecayOptions) -> Iterator[str]:
    """Yield what is wrong with the warmup."""
    if options.warmup_steps is not None and options.warmup_ratio is not None:
        yield "warmup_steps and warmup_ratio are both given: leave one out"
