"""Two trainings that take turns, a few steps each, so that whatever else the machine does slows both of them.

Each way is a process of its own. After every step it calls ``Gate.step_done``; at the end of its turn it waits there,
with its thread asleep, until the other has had its own. A turn is timed in the process itself: seconds on the clock,
and seconds of processor, of all its threads, which other programs on the machine hardly change.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

SOCKET = "BENCHMARK_TURNS"
"""The environment variable that tells a process where to meet the others."""

_LONGEST_SECONDS = 1800
"""How long a process may take to start, or for one turn."""


class Turn(NamedTuple):
    """What one step of a turn took, in seconds."""

    clock: float
    processor: float


class Gate:
    """Where one of the trainings waits for its turn. A process that nobody has told of turns passes at once."""

    def __init__(self) -> None:
        self._left = 1
        self._steps = 0
        self._line = None
        if place := os.environ.get(SOCKET):
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(place)
            self._line = connection.makefile("rw")

    def step_done(self) -> None:
        """Note the end of a step; at the end of a turn, tell how long it took and wait for the next."""
        self._left -= 1
        if self._left or self._line is None:
            return
        clock, processor = time.perf_counter(), time.process_time()
        if self._steps:
            self._line.write(f"{(clock - self._clock) / self._steps} {(processor - self._processor) / self._steps}\n")
        else:
            self._line.write("ready\n")
        self._line.flush()
        self._left = self._steps = int(self._line.readline() or "0")
        self._clock, self._processor = time.perf_counter(), time.process_time()


class Way(NamedTuple):
    """A command whose process passes a ``Gate``, and what its environment has besides this one's."""

    command: Sequence[str]
    environment: Mapping[str, str] = {}


def take_turns(ways: Mapping[str, Way], *, rounds: int, steps: int, dropped: int = 1) -> dict[str, list[Turn]]:
    """Let the ways run ``rounds`` turns of ``steps`` steps each by turns, after ``dropped`` turns that do not count.

    Each has to make ``total_steps`` of them.

    Raises:
        RuntimeError: when one of them fails, with what it said.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        lines = {
            name: _start(stack, name, way, folder / f"{number}") for number, (name, way) in enumerate(ways.items())
        }
        found: dict[str, list[Turn]] = {name: [] for name in ways}
        for round_ in range(dropped + rounds):
            for name, line in lines.items():
                turn = line.ask(steps)
                if round_ >= dropped:
                    found[name].append(turn)
        for line in lines.values():
            line.let_go()
        return found


class Course(NamedTuple):
    """Seconds on the clock from a training's start to its first step's end, and from its last step's to its own."""

    to_first_step: float
    after_last_step: float


def course_of(name: str, way: Way, *, steps: int) -> Course:
    """Let a way run alone, for its first step and ``steps`` more.

    Raises:
        RuntimeError: when it fails, with what it said.
    """
    with ExitStack() as stack:
        begin = time.perf_counter()
        line = _start(stack, name, way, Path(stack.enter_context(tempfile.TemporaryDirectory())) / "one")
        first = time.perf_counter()
        line.ask(steps)
        last = time.perf_counter()
        line.let_go()
        return Course(first - begin, time.perf_counter() - last)


def total_steps(*, rounds: int, steps: int, dropped: int = 1) -> int:
    """How many steps a way makes: one until it is ready, and those of its turns."""
    return 1 + (dropped + rounds) * steps


class _Line:
    """The line to one of the processes."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], connection: socket.socket, log: Path) -> None:
        self._name, self._process, self._log = name, process, log
        self._file = connection.makefile("rw")
        self._expect()

    def ask(self, steps: int) -> Turn:
        """One turn."""
        self._file.write(f"{steps}\n")
        self._file.flush()
        return Turn(*map(float, self._expect().split()))

    def let_go(self) -> None:
        """Let it run to its end."""
        self._file.write("0\n")
        self._file.flush()
        if self._process.wait(_LONGEST_SECONDS):
            raise RuntimeError(f"{self._name} ended with {self._process.returncode}:\n{self._log.read_text()[-3000:]}")

    def _expect(self) -> str:
        if not (answer := self._file.readline()):
            raise RuntimeError(f"{self._name} ended too early:\n{self._log.read_text()[-3000:]}")
        return answer


def _start(stack: ExitStack, name: str, way: Way, place: Path) -> _Line:
    """Start a process, and wait until it has made its first step: the other is to start on a quiet machine, too."""
    log = place.with_suffix(".log")
    listener = stack.enter_context(socket.socket(socket.AF_UNIX))
    listener.bind(str(place))
    listener.listen(1)
    listener.settimeout(1.0)
    process = subprocess.Popen(
        way.command,
        stdout=stack.enter_context(log.open("wb")),
        stderr=subprocess.STDOUT,
        env=os.environ | way.environment | {SOCKET: str(place)},
    )
    stack.callback(_end, process)
    for _ in range(_LONGEST_SECONDS):
        try:
            connection = stack.enter_context(listener.accept()[0])
        except TimeoutError:
            if process.poll() is not None:
                break
        else:
            connection.settimeout(_LONGEST_SECONDS)
            return _Line(name, process, connection, log)
    raise RuntimeError(f"{name} did not start ({process.poll()}):\n{log.read_text()[-3000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        process.wait()
