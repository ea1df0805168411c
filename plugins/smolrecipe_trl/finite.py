"""Holding on before numbers that are not finite reach anything that is kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments  # noqa: TID253

from smolrecipe import StageError

_ADVICE = "lower the learning rate or max_grad_norm, or look for broken rows"

Numbers = Iterable[Sequence[float]]


class OnlyFinite(TrainerCallback):
    """Ends training at the first step that is not finite, before it is reported or saved.

    A step's loss and gradient are those of the weights before it. So where a step is to be saved, the weights that it
    made are tried too: on one row, by a forward pass.

    Args:
        try_weights: what the model makes of one row as it is now; called on every process.
        kept: steps after which something is kept besides checkpoints.
    """

    def __init__(self, try_weights: Callable[[], Numbers], kept: Collection[int]) -> None:
        self._try_weights = try_weights
        self._kept = kept
        self._last = ""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **_: object,
    ) -> None:
        """Look at a step; the engine logs it before it saves it, on every process the same.

        Raises:
            StageError: for a loss, a gradient norm or weights that are not finite.
        """
        if logs is None or "loss" not in logs:
            return
        where = f"step {state.global_step} of {state.max_steps}"
        for name, what in (("loss", "the loss"), ("grad_norm", "the gradient norm")):
            if not math.isfinite(logs.get(name, 0.0)):
                raise StageError(f"{what} is {logs[name]} in {where}{self._last}: {_ADVICE}")
        if (control.should_save or state.global_step in self._kept) and not all_finite(self._try_weights()):
            raise StageError(
                f"the weights after {where} make no finite loss (its own was {logs['loss']:.4g}, its gradient norm "
                f"{logs.get('grad_norm', math.nan):.4g}), so they are not saved: {_ADVICE}"
            )
        norm = f", the gradient norm {logs['grad_norm']:.4g}" if "grad_norm" in logs else ""
        self._last = f" (the loss was {logs['loss']:.4g}{norm} in the step before)"


def all_finite(table: Numbers) -> bool:
    """Whether a table has neither a NaN nor an infinity."""
    return all(math.isfinite(number) for row in table for number in row)


def check_measured(tables: Mapping[str, Numbers], when: str) -> None:
    """Refuse what was measured of held-out rows where it is not finite.

    Raises:
        StageError: naming the source, the row and what was found.
    """
    for source, table in tables.items():
        for number, row in enumerate(table):
            if not all_finite([row]):
                raise StageError(
                    f"{when}, the model makes {', '.join(f'{value:.6g}' for value in row)} of row {number} of those "
                    f"kept of 'held_out.{source}': look for a broken row, or broken weights"
                )
