"""How much memory a stage's processes hold on this machine, and at most of its GPU: told with every step.

Such numbers are like the time: they differ between two runs that publish the same otherwise.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smolrecipe.running.pace import is_number

RESIDENT = "memory_gib"
"""GiB that the stage's processes and their children hold on the machine of the first of them."""
ON_GPU = "gpu_memory_gib"
"""GiB that the first process' tensors took on its GPU, at the most since it started."""

_MEASURE_EVERY_SECONDS = 1.0
"""Steps may take milliseconds, and a look at all processes takes one."""
_GIB = 2**30


class MemoryMeter:
    """Measures the memory of the stage that this process belongs to, among ``processes`` in all."""

    def __init__(self, processes: int) -> None:
        # Several have one launcher on each machine, whose children they are.
        self._others = processes > 1
        self._next = 0.0
        self._found: Mapping[str, float] = {}

    def __call__(self) -> Mapping[str, float]:
        """What is found, at most a second ago; nothing where this machine does not tell."""
        if time.monotonic() >= self._next:
            self._found = {**_resident(os.getppid() if self._others else None), **_on_gpu()}
            self._next = time.monotonic() + _MEASURE_EVERY_SECONDS
        return self._found


def memory_text(numbers: Mapping[str, Any]) -> str:
    """``memory 1.25 GiB``, of a stage on GPUs ``GPU 35.2 GiB``; nothing where a step tells neither."""
    for key, what in ((ON_GPU, "GPU"), (RESIDENT, "memory")):
        value = numbers.get(key)
        if is_number(value):
            return f"{what} {value:.3g} GiB"
    return ""


def _resident(launcher: int | None) -> dict[str, float]:
    """What this process and its children hold, or all children of its launcher."""
    processes = {os.getpid(), *_below(os.getpid() if launcher is None else launcher)}
    held = sum(map(_pages, processes)) * os.sysconf("SC_PAGE_SIZE") / _GIB
    return {RESIDENT: round(held, 3)} if held else {}


def _below(process: int) -> set[int]:
    found: set[int] = set()
    left = [process]
    while left:
        for file in Path(f"/proc/{left.pop()}/task").glob("*/children"):
            try:
                children = {int(number) for number in file.read_text().split()} - found
            except OSError:
                continue  # it has ended
            found |= children
            left.extend(children)
    return found


def _pages(process: int) -> int:
    """Pages of memory that a process holds; none of one that has ended, or where there is no such file system."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def _on_gpu() -> dict[str, float]:
    """What torch has taken of this process' GPU, where the stage has begun to use one; torch is not imported for it."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    return {ON_GPU: round(torch.cuda.max_memory_allocated() / _GIB, 3)}
