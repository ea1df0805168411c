"""What a call costs, without a clock: lines of Python executed and bytes held."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import Any


class _TooCostly(BaseException):
    """Raised inside what has executed more lines than it may."""


def cost(function: Callable[[], Any], most_lines: int = sys.maxsize) -> tuple[int, int]:
    """Lines that a call executes, and the most bytes that it holds at once, of Python's and numpy's.

    It is stopped after ``most_lines``; then it has executed one more than that.
    """
    lines = 0

    def count(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        if lines > most_lines:
            raise _TooCostly
        return count

    before, tracing = sys.gettrace(), tracemalloc.is_tracing()
    if not tracing:
        tracemalloc.start()
    tracemalloc.reset_peak()
    held = tracemalloc.get_traced_memory()[0]
    try:
        sys.settrace(count)
        function()
    except _TooCostly:
        pass
    finally:
        sys.settrace(before)
        peak = tracemalloc.get_traced_memory()[1] - held
        if not tracing:
            tracemalloc.stop()
    return lines, peak
