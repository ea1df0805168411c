"""How fast each stage trained, and what part of the device's peak that is, where its engine has told it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from statistics import median
from typing import Any

from smolrecipe_report.reading import Stage

SPEED_HEAD = ("stage", "device", "tokens per second", "MFU")


def speed_rows(stages: Iterable[Stage]) -> Iterator[tuple[Any, ...]]:
    """A row for each stage that trained: medians over its steps, or why there are none."""
    for stage in stages:
        if stage.steps("loss"):
            speed, mfu = ([value for _, value in stage.steps(key)] for key in ("tokens_per_second", "mfu"))
            yield (
                stage.name,
                stage.device,
                round(median(speed)) if speed else "not recorded",
                f"{median(mfu):.1%}" if mfu else _why_none(stage),
            )


def _why_none(stage: Stage) -> str:
    if stage.device == "cpu":
        return "none: a CPU has no peak to compare with"
    return "not recorded by this kind of stage"
