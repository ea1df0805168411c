"""Being asked to stop: by a signal that a stage may answer by saving before it ends, and the runner by waiting."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """This program was asked to stop, by Ctrl-C or by SIGTERM."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__()
        self.number = number

    @property
    def exit_code(self) -> int:
        """What a shell says of a program that a signal ended: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number


def interrupt(number: int, frame: FrameType | None) -> None:
    """The handler of a signal that interrupts this program as Ctrl-C does."""
    raise Interrupted(number)


class Asked:
    """Whether the program was asked to stop, and whether at once."""

    number: int | None = None
    """The signal that asked first."""
    at_once = False
    """Ctrl-C came after that. SIGTERM often comes twice by itself, from a scheduler and from a shell."""

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.at_once = self.at_once or (self.number is not None and number == signal.SIGINT)
        self.number = self.number or number


@contextmanager
def asked_to_stop() -> Iterator[Asked]:
    """Take note of Ctrl-C and SIGTERM meanwhile, instead of being ended by them; a signal that is ignored stays so.

    Only the main thread may set a signal's handler; in another one nothing changes.
    """
    asked = Asked()
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, asked._remember)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def heed_stop_signal() -> Callable[[], bool]:
    """From now on SIGTERM no longer ends this process: what is returned says whether it has come.

    For loops that ask after every step. Only the main thread may set a signal's handler; from another one the signal
    keeps ending the process.
    """
    asked = threading.Event()

    def remember(number: int, frame: FrameType | None) -> None:
        asked.set()

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, remember)
    return asked.is_set
