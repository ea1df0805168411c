"""What the processes of a stage owe each other: to agree before one of them stops, and not to wait for ever."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from enum import IntEnum

import torch  # noqa: TID253
import torch.distributed as dist  # noqa: TID253

from smolrecipe import StageContext, StageError, StageStopped
from smolrecipe_trl.options import Parallelism

_TOUCH_SECONDS = 1.0
"""How often the first process tells those that wait for it that it lives."""


class _FirstIs(IntEnum):
    """What the first process says of itself to those that wait for it."""

    WORKING = 0
    DONE = 1
    STOPPED = 2


class Processes:
    """The processes of a stage, this one among them.

    ``saved_step`` is the step of the checkpoint that the stage goes on from if it stops now.
    """

    def __init__(self, context: StageContext, layout: Parallelism, saved_step: int) -> None:
        self.saved_step = saved_step
        self._asked = context.heed_stop()
        self._is_first = context.rank == 0
        self._several = context.world_size > 1
        if self._several:
            if layout.device == "cuda":
                torch.cuda.set_device(context.local_rank)
            # Engines find this group and start none of their own, to which on CPUs they would give no time limit.
            dist.init_process_group(
                "gloo" if layout.device == "cpu" else "cpu:gloo,cuda:nccl",
                timeout=timedelta(seconds=layout.timeout_seconds),
            )

    def any(self, mine: bool) -> bool:
        """Whether it is true of at least one process; all of them ask together."""
        return bool(self._largest([int(mine)])[0])

    def first_says(self, number: int) -> int:
        """The number of the first process; all of them ask together."""
        if self._several:
            told = torch.tensor(number)
            dist.broadcast(told, src=0)
            return int(told)
        return number

    def asked_to_stop(self) -> bool:
        """Whether the stage was asked to stop; all processes ask together and get the same answer."""
        return self.any(self._asked())

    def stop_if_asked(self) -> None:
        """Stop the stage if it was asked to; all processes call this together.

        Raises:
            StageStopped: on all of them.
        """
        if self.asked_to_stop():
            raise StageStopped(self.saved_step)

    @contextmanager
    def first_works(self) -> Iterator[Callable[[], None]]:
        """For the first process, while it does alone what the others need (see ``wait_for_first``).

        Yields what it calls now and then meanwhile: it raises ``StageStopped`` when the stage was asked to stop, and
        what there is to raise when another process is gone.
        """
        touch = _Touch(self._exchange)

        def look_around() -> None:
            if touch.lost is not None:
                raise touch.lost
            if self._asked() or touch.asked:
                raise StageStopped(self.saved_step)

        if self._several:
            touch.start()
        try:
            yield look_around
        except StageStopped:
            touch.end(_FirstIs.STOPPED)
            raise
        except BaseException:
            touch.end(None)  # the others learn it when this process has ended, and its error is the one that counts
            raise
        touch.end(_FirstIs.DONE)
        if touch.lost is not None:
            raise touch.lost

    def wait_for_first(self) -> None:
        """For the other processes, while the first is inside of ``first_works``.

        Raises:
            StageStopped: when the stage was asked to stop meanwhile.
        """
        state = _FirstIs.WORKING
        while state == _FirstIs.WORKING:
            state = _FirstIs(self._exchange(_FirstIs.WORKING)[0])
        if state == _FirstIs.STOPPED:
            raise StageStopped(self.saved_step)

    def _exchange(self, state: _FirstIs) -> list[int]:
        return self._largest([state, int(self._asked())])

    def _largest(self, numbers: list[int]) -> list[int]:
        """The largest of each number over all processes. These are tensors on a CPU: no accelerator waits for them."""
        if not self._several:
            return numbers
        shared = torch.tensor(numbers)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return [int(number) for number in shared]


class _Touch(threading.Thread):
    """Keeps in touch with those that wait, beside what this process does."""

    def __init__(self, exchange: Callable[[_FirstIs], list[int]]) -> None:
        super().__init__(daemon=True)
        self.lost: Exception | None = None
        self.asked = False
        self._exchange = exchange
        self._ended = threading.Event()
        self._farewell: _FirstIs | None = None

    def run(self) -> None:
        """Tell them every second, and a last time at the end."""
        try:
            while not self._ended.wait(_TOUCH_SECONDS):
                self.asked = bool(self._exchange(_FirstIs.WORKING)[1]) or self.asked
            if self._farewell is not None:
                self._exchange(self._farewell)
        except Exception as error:  # to be raised where it can be seen
            self.lost = error

    def end(self, farewell: _FirstIs | None) -> None:
        """Say how it ended, if anything is to be said."""
        self._farewell = farewell
        self._ended.set()
        if self.ident is not None:
            self.join()


@contextmanager
def joined(context: StageContext, layout: Parallelism, saved_step: int) -> Iterator[Processes]:
    """The processes of the stage. What engines raise when one of them is gone or silent becomes an error for people.

    When they part, SIGTERM means again what it did before: nobody asks any more whether it has come.

    Raises:
        StageError: for a process that is gone, or has not answered within the layout's ``timeout_seconds``.
    """
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield Processes(context, layout, saved_step)
    except RuntimeError as error:
        fate = _fate_of_another(error, layout.timeout_seconds) if context.world_size > 1 else None
        if fate is None:
            raise
        raise StageError(fate) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _fate_of_another(error: RuntimeError, seconds: int) -> str | None:
    """What the error of a collective operation says of another process; ``None`` for any other error."""
    said = str(error).lower()
    # gloo's errors have no type of their own, but the name of their place in its sources.
    if not isinstance(error, dist.DistError) and "gloo" not in said:
        return None
    if "timed out" in said or "timeout" in said:
        return (
            f"another process of the stage did not answer within {seconds} seconds (it hangs, or is much slower than "
            "this one; parallelism.timeout_seconds is how long they wait for each other)"
        )
    return "another process of the stage ended, so that this one cannot go on; the log says what it said last"
