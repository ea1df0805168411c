"""A tracker that makes a stage take turns with something else: see ``turns.py``.

It is found as any plugin is, by an entry point, so that the stage that is measured is the one that ``smolrecipe run``
runs, unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from attrs import frozen

from smolrecipe import StageContext, Tracker, hookimpl, option
from turns import Gate


@frozen(kw_only=True)
class TurnsOptions:
    """Which stage takes turns."""

    stage: str = option(doc="the stage; all others pass")


def open_turns(options: TurnsOptions, context: StageContext) -> Callable[[Mapping[str, Any]], None]:
    """Wait at every step that the stage reports."""
    if context.stage != options.stage:
        return lambda event: None
    gate = Gate()

    def log(event: Mapping[str, Any]) -> None:
        if "step" in event:
            gate.step_done()

    return log


@hookimpl
def smolrecipe_trackers() -> Iterable[Tracker]:
    """Offer ``turns``."""
    yield Tracker(
        name="turns",
        options=TurnsOptions,
        summary="take turns with another process, a few steps each",
        source="benchmarks/turns.py",
        open=open_turns,
    )
