"""What the processes of a stage owe each other: to agree before one of them stops, and not to wait for ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch  # noqa: TID253
import torch.distributed as dist  # noqa: TID253
from torch.distributed.checkpoint import CheckpointException  # noqa: TID253
from torchtitan.distributed.utils import set_pg_timeouts  # noqa: TID253

from smolrecipe import StageError
from smolrecipe_torchtitan.checkpoints import cause_of

FIRST_STEP = 3
"""So many times as long processes wait for each other until the first step is made: connections are built, kernels
compiled, data opened and checkpoints loaded until then, by each in its own time."""


class Together:
    """The processes of a stage. ``group`` is theirs on CPUs, so that asking each other makes no accelerator wait."""

    def __init__(self, timeout_seconds: int, trainer: Any) -> None:
        self._timeout = timeout_seconds
        self._trainer = trainer
        self.group = dist.new_group(backend="gloo")
        self.seconds = 0
        self.wait_at_most(FIRST_STEP * timeout_seconds)

    def wait_at_most(self, seconds: int) -> None:
        """Set how long a process waits for another in any operation that they share, from now on."""
        self.seconds = seconds
        timeout = timedelta(seconds=seconds)
        set_pg_timeouts(timeout, self._trainer.parallel_dims)
        for group in (self.group, self._trainer.checkpointer.pg):
            dist.set_timeout(timeout, group)

    def first_step_is_made(self) -> None:
        """From now on the others answer within the stage's own time."""
        if self.seconds != self._timeout:
            self.wait_at_most(self._timeout)

    def any(self, *mine: bool) -> list[bool]:
        """What is true of at least one process; all of them ask the same together."""
        if dist.get_world_size() == 1:
            return list(mine)
        answers = torch.tensor(mine, dtype=torch.uint8)
        dist.all_reduce(answers, op=dist.ReduceOp.MAX, group=self.group)
        return answers.bool().tolist()


@contextmanager
def sentences_of_others(place: Callable[[], str], seconds: Callable[[], int]) -> Iterator[None]:
    """Turn what engines raise when another process is gone or silent into an error for people."""
    try:
        yield
    except CheckpointException as error:
        raise cause_of(error) from error
    except RuntimeError as error:
        if (fate := fate_of_another(error, seconds())) is None:
            raise
        raise StageError(f"{fate} {place()}") from error


def fate_of_another(error: RuntimeError, seconds: int) -> str | None:
    """What an error of a collective operation says of the process that it waited for; nothing for any other error."""
    said = str(error)
    # gloo's errors have no type of their own, but the name of their place in its sources.
    if not isinstance(error, dist.DistError) and "gloo" not in said:
        return None
    if "timed out" in said.lower() or "timeout" in said.lower():
        return (
            f"another process of the stage did not answer within {seconds} seconds (it hangs, or is much slower than "
            "this one; parallelism.timeout_seconds is how long they wait for each other)"
        )
    return "another process of the stage ended, so that this one cannot go on,"
