"""Metrics for Weights & Biases, online or offline: one run of theirs for each stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from attrs import frozen

from smolrecipe import StageContext, Tracker, hookimpl, option

__all__ = ["WandbOptions"]


@frozen(kw_only=True)
class WandbOptions:
    """Options of the tracker ``wandb``."""

    project: str | None = option(default=None, doc="the project; the recipe's name if not given")
    entity: str | None = option(default=None, doc="the user or team; the key's own if not given")
    mode: Literal["online", "offline"] = option(
        default="online",
        doc="offline asks no network and writes below the stage's folder, for 'wandb sync --no-mark-synced' later "
        "(with the mark, the published folder would have one file more than its manifest)",
    )
    tags: tuple[str, ...] = option(default=(), doc="tags of each run")


def _open(options: WandbOptions, context: StageContext) -> Callable[[Mapping[str, Any]], None]:
    from smolrecipe_wandb.tracked import open_run

    return open_run(options, context)


@hookimpl
def smolrecipe_trackers() -> Iterable[Tracker]:
    """Offer ``wandb``."""
    yield Tracker(
        name="wandb",
        options=WandbOptions,
        summary="Weights & Biases: a run for each stage, grouped by recipe",
        source="https://docs.wandb.ai",
        open=_open,
        requires=("wandb",),
        extra="wandb",
        example={"mode": "offline"},
    )
