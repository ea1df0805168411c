"""Being asked to stop: a signal that a stage may answer by saving before it ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any


def heed_stop_signal() -> Callable[[], bool]:
    """From now on SIGTERM no longer ends this process: what is returned says whether it has come.

    For loops that ask after every step. Only the main thread may set a signal's handler; from another one the signal
    keeps ending the process.
    """
    asked = threading.Event()

    def remember(number: int, frame: Any) -> None:
        asked.set()

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, remember)
    return asked.is_set
