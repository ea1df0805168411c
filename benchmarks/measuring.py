"""What the benchmarks share: measure two ways by turns, print a table, keep the numbers as JSON.

A machine's speed drifts with its other work, so the ways that are compared are measured by turns and a ratio is that of
medians. Nothing here asserts a time: what a number is held against stands beside it.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

RESULTS = Path(__file__).parent / "results"

_PACKAGES = ("smolrecipe", "torch", "torchtitan", "trl", "transformers", "mergekit", "datatrove", "numpy")


def by_turns(ways: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each way returns (seconds, tokens per second), ``rounds`` times, one after the other by turns."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, measure in ways.items():
            found[name].append(measure())
    return found


def seconds_of(work: Callable[[], object]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class Used(NamedTuple):
    """What a command took: seconds on the clock, MiB that one of its processes held at most, seconds of processor."""

    seconds: float
    memory: float
    processor: float


def in_process(command: Sequence[str], **environment: str) -> Used:
    """Run a command, and say what it and the processes that it started took.

    Raises:
        RuntimeError: when it fails, with what it said.
    """
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | environment
    ) as process:
        output = process.stdout.read() if process.stdout else ""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{output[-3000:]}")
    return Used(time.perf_counter() - start, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime)


def medians(used: Sequence[Used]) -> Used:
    """The median of each."""
    return Used(*(median(values) for values in zip(*used, strict=True)))


def spread(values: Sequence[float]) -> str:
    """Median and range."""
    return f"{median(values):.4g} ({min(values):.4g} to {max(values):.4g})"


COMPARED = (
    "what",
    "way",
    "ms of processor: median (least)",
    "ratio",
    "of the least",
    "ms on the clock",
    "ratio of it",
    "goal",
)
"""The head of a table of ``compared`` rows."""


def compared(
    what: str, turns: Mapping[str, Sequence[Sequence[float]]], *, ours: str, goal: float
) -> list[tuple[str | float, ...]]:
    """Rows of a table from turns of (seconds on the clock, seconds of processor): ours over each of the others.

    Ratios are those of medians, and of the least that any turn took of the processor: work that is the same each time
    takes longer where something else holds the machine's memory and caches, and never less.
    """
    rows: list[tuple[str | float, ...]] = []
    columns = {
        name: [[1e3 * value for value in column] for column in zip(*found, strict=True)]
        for name, found in turns.items()
    }
    own = [(median(column), min(column)) for column in columns[ours]]
    for name, (clock, processor) in columns.items():
        medians = f"{median(processor):.4g} ({min(processor):.4g})", median(clock)
        ratios = own[1][0] / median(processor), own[1][1] / min(processor), own[0][0] / median(clock)
        shown = ("", "", "", "") if name == ours else (*ratios, goal)
        rows.append((what, name, medians[0], shown[0], shown[1], medians[1], *shown[2:]))
    return rows


def named(name: str, chosen: Sequence[str], of: Collection[str]) -> str:
    """A name for the results of some of a script's measurements: the script's where all were made."""
    return name if set(chosen) == set(of) else "-".join([name, *chosen])


def keep(name: str, title: str, head: Sequence[str], rows: Sequence[Sequence[Any]], **more: Any) -> None:
    """Print a table, and write it with the machine and the versions to ``results/<name>.json``."""
    print_table(title, head, rows)
    RESULTS.mkdir(parents=True, exist_ok=True)
    content = {
        "title": title,
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "python": platform.python_version()},
        "packages": {package: found for package in _PACKAGES if (found := _version(package))},
        "rows": [dict(zip(head, row, strict=True)) for row in rows],
        **more,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table in columns as wide as they need to be."""
    lines = [[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    print(f"\n{title}")
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def memory_from_now_on() -> float:
    """The memory that this process holds, in MiB; ``peak_memory`` tells the most from now on."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak, see proc(5)
    return peak_memory()


def peak_memory() -> float:
    """The most memory that this process has held so far, in MiB."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
