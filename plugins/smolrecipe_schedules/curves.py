"""The curves: the factor on the peak learning rate in step ``step`` of ``steps``, counted from 1.

Two published conventions say which point of a curve the first step gets, and each schedule keeps the one of the rule
that it is named after:

- ``wsd`` is nanotron's rule with ``current_step = step`` (torchtitan's warmup counts the same way): the first step runs
  at 1 / warmup_steps. nanotron's own loop advances its scheduler after the update, so its updates lag one step behind.
- ``cosine`` and ``linear`` are transformers' schedules of these names with ``current_step = step - 1``, the index of
  its ``LambdaLR`` in that update: step by step the rates of its ``Trainer``. With a warmup the first step runs at 0,
  and the last one just above the minimum. nanotron's cosine, as in SmolLM3's long-context stages, is ``wsd`` with
  ``decay_style: cosine``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from smolrecipe_schedules.options import DecayOptions, WsdOptions

_SHAPES: Mapping[str, Callable[[float], float]] = {
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
    "sqrt": lambda progress: 1.0 - math.sqrt(progress),
}


def wsd(options: WsdOptions, step: int, steps: int) -> float:
    """Linear warmup, stable, decay (nanotron ``lr_scheduler_builder``); independent of ``steps``."""
    if step <= options.warmup_steps:
        return step / options.warmup_steps
    decayed = step - options.decay_start
    if decayed < 0:
        return 1.0
    if decayed >= options.decay_steps:
        return options.min_factor
    return _between(options.min_factor, _SHAPES[options.decay_style](decayed / options.decay_steps))


def cosine(options: DecayOptions, step: int, steps: int) -> float:
    """Linear warmup, then half a cosine (transformers ``get_cosine_with_min_lr_schedule_with_warmup``)."""
    return _warmup_then(options, "cosine", step, steps)


def linear(options: DecayOptions, step: int, steps: int) -> float:
    """Linear warmup, then a line (transformers ``get_linear_schedule_with_warmup``, with a minimum)."""
    return _warmup_then(options, "linear", step, steps)


def _warmup_then(options: DecayOptions, shape: str, step: int, steps: int) -> float:
    index = step - 1
    if options.warmup_ratio is not None:
        warmup = math.ceil(steps * options.warmup_ratio)
    else:
        warmup = options.warmup_steps or 0
    if index < warmup:
        return index / warmup
    progress = min((index - warmup) / max(1, steps - warmup), 1.0)
    return _between(options.min_factor, _SHAPES[shape](progress))


def _between(minimum: float, part: float) -> float:
    return minimum + (1.0 - minimum) * part
