"""What the benchmarks share: measure two ways by turns, print a table, keep the numbers as JSON.

A machine's speed drifts with its other work, so the ways that are compared are measured by turns and a ratio is that of
medians. Nothing here asserts a time: what a number is held against stands beside it.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
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


def in_process(command: Sequence[str], **environment: str) -> tuple[float, float]:
    """Seconds that a command takes, and the most memory that it held, in MiB.

    Raises:
        RuntimeError: when it fails, with what it said.
    """
    taken = taken_by(command, **environment)
    return taken.seconds, taken.memory


class Taken(NamedTuple):
    """What a command took."""

    seconds: float
    processor_seconds: float
    """Of all cores, in it and in the system for it: what other programs take meanwhile changes this least."""
    memory: float
    """The most that it held, in MiB."""


def taken_by(command: Sequence[str], **environment: str) -> Taken:
    """What a command takes.

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
    seconds = time.perf_counter() - start
    return Taken(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def spread(values: Sequence[float]) -> str:
    """Median and range."""
    return f"{median(values):.4g} ({min(values):.4g} to {max(values):.4g})"


def keep(name: str, title: str, head: Sequence[str], rows: Sequence[Sequence[Any]], **more: Any) -> None:
    """Print a table, and write it with the machine and the versions to ``results/<name>.json``."""
    print_table(title, head, rows)
    RESULTS.mkdir(exist_ok=True)
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


def peak_memory() -> float:
    """The most memory that this process has held so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


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
