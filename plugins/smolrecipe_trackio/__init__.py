"""Metrics for trackio, on this machine alone: a database in each stage's folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from attrs import frozen

from smolrecipe import StageContext, Tracker, hookimpl, option

__all__ = ["TrackioOptions"]


@frozen(kw_only=True)
class TrackioOptions:
    """Options of the tracker ``trackio``."""

    project: str | None = option(
        default=None,
        doc="the project, and the name of the database; the recipe's name if not given. 'trackio show' writes where it "
        "looks: copy the folder 'trackio' of a stage, and name the copy in TRACKIO_DIR",
    )


def _open(options: TrackioOptions, context: StageContext) -> Callable[[Mapping[str, Any]], None]:
    from smolrecipe_trackio.database import open_run

    return open_run(options, context)


@hookimpl
def smolrecipe_trackers() -> Iterable[Tracker]:
    """Offer ``trackio``."""
    yield Tracker(
        name="trackio",
        options=TrackioOptions,
        summary="trackio: a database in each stage's folder, on this machine alone",
        source="https://huggingface.co/docs/trackio",
        open=_open,
        requires=("trackio",),
        extra="trackio",
    )
