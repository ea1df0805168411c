"""Metrics for TensorBoard: an event file in each stage's folder, so that ``tensorboard --logdir runs`` shows all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from attrs import frozen

from smolrecipe import StageContext, Tracker, hookimpl, option

__all__ = ["TensorBoardOptions"]


@frozen(kw_only=True)
class TensorBoardOptions:
    """Options of the tracker ``tensorboard``."""

    messages: bool = option(default=True, doc="whether the sentences that a stage says are shown too, as text")


def _open(options: TensorBoardOptions, context: StageContext) -> Callable[[Mapping[str, Any]], None]:
    from smolrecipe_tensorboard.events import EventLog

    return EventLog(options, context)


@hookimpl
def smolrecipe_trackers() -> Iterable[Tracker]:
    """Offer ``tensorboard``."""
    yield Tracker(
        name="tensorboard",
        options=TensorBoardOptions,
        summary="event files for TensorBoard, in each stage's folder: tensorboard --logdir runs",
        source="https://www.tensorflow.org/tensorboard, through torch.utils.tensorboard",
        open=_open,
        requires=("tensorboard", "torch"),
        extra="tensorboard",
    )
