"""Runs of a recipe that are killed, from within or from outside, or watched."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from attrs import field, frozen

HERE = Path(__file__).parent
MINI = HERE / "mini.yaml"
STORE = "chaos"
"""The name of that recipe, and so of the folder of its artifacts in a run store."""

LONGEST_SECONDS = 600
"""How long a run may take: one that hangs fails its test."""

Role = Literal["runner", "worker"]

_SET_BY_TORCH = "TORCHINDUCTOR_CACHE_DIR"
"""Variable that torch sets in a process which has imported its compiler: it would tell a run where to write."""


@frozen(kw_only=True)
class Kill:
    """SIGKILL at the so many-th change (from 1) that a process of this role makes to the files of a stage."""

    stage: str
    role: Role
    at: int
    moment: Literal["before", "opened"]

    def environment(self, store: Path, note: Path) -> dict[str, str]:
        """What tells ``watch/sitecustomize.py`` of it."""
        return {
            "CHAOS_KILL_PREFIX": str(store / self.stage) + "-",
            "CHAOS_KILL_AT": str(self.at),
            "CHAOS_KILL_ROLE": self.role,
            "CHAOS_KILL_MOMENT": self.moment,
            "CHAOS_KILL_NOTE": str(note),
        }


@frozen
class Ended:
    """A run that has ended."""

    code: int
    output: str

    def check(self, code: int) -> Ended:
        """Fail unless it ended with ``code`` and without a traceback."""
        assert self.code == code, f"exit code {self.code}:\n{self.output}"
        assert "Traceback" not in self.output, self.output
        return self


@frozen(kw_only=True)
class Bench:
    """How to run a recipe: settings as of ``--set``, what to add to the environment, and a command to run it with."""

    recipe: Path = MINI
    settings: tuple[str, ...] = ()
    within: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(factory=dict)
    threads: int | None = 1
    """Of each process: two runs at once on two cores. As many as without the bench where not given."""

    def start(
        self, runs: Path, output: Path, *settings: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start ``smolrecipe run`` in a process group of its own, in the folder of the file that it prints to."""
        command = [*self.within, sys.executable, "-m", "smolrecipe", "run", str(self.recipe), "--runs", str(runs)]
        for setting in (*self.settings, *settings):
            command += ["--set", setting]
        inherited = {name: value for name, value in os.environ.items() if name != _SET_BY_TORCH}
        with output.open("ab") as file:
            return subprocess.Popen(
                command,
                cwd=output.parent,
                env={**inherited, **watched(self.threads), **self.environment, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_tests,
            )

    def run(
        self,
        runs: Path,
        *settings: str,
        environment: Mapping[str, str] | None = None,
        meanwhile: Callable[[subprocess.Popen[bytes]], None] = lambda process: None,
        seconds: float = LONGEST_SECONDS,
    ) -> Ended:
        """Run to the end, however that comes; nothing is left running. ``meanwhile`` may do something to it."""
        runs.mkdir(parents=True, exist_ok=True)
        token = uuid.uuid4().hex
        output = runs.parent / f"{runs.name}-{token}.txt"
        process = self.start(runs, output, *settings, environment={**(environment or {}), "CHAOS_TOKEN": token})
        try:
            meanwhile(process)
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the run hangs:\n{output.read_text(errors='replace')}") from None
        finally:
            end_group(process)
            await_end(token)
        said = output.read_text(errors="replace")
        output.unlink()
        return Ended(code, said)

    def kill(self, kill: Kill, runs: Path, *settings: str) -> dict[str, Any] | None:
        """Run with a kill. Returns what was about to happen when it came, or nothing where it never came."""
        note = runs.parent / f"{runs.name}-{uuid.uuid4().hex}.json"
        ended = self.run(runs, *settings, environment=kill.environment(runs / STORE, note))
        if not note.exists():
            ended.check(0)
            return None
        assert ended.code != 0, f"{kill} came, and the run says that all is well"
        assert "Traceback" not in ended.output, ended.output
        found: dict[str, Any] = json.loads(note.read_text())
        return found


_LIBC = ctypes.CDLL(None)  # loaded before a fork: afterwards only one thread of several is left


def _die_with_tests() -> None:
    """Let the kernel end a run when the thread that started it is gone: tests that are killed leave nothing behind.

    A shell that runs the tests in the background leaves SIGINT ignored, and children inherit that.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _LIBC.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG


def watched(threads: int | None) -> dict[str, str]:
    """The environment of processes that can be watched from within, with so many threads each."""
    folders = [str(HERE / "watch"), str(HERE / "plugins"), os.environ.get("PYTHONPATH", "")]
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, folders))}
    return paths if threads is None else {**paths, "OMP_NUM_THREADS": str(threads)}


@contextmanager
def warm_bench(folder: Path) -> Iterator[Bench]:
    """A bench whose stages are forks of one process that has imported every engine: see ``smolrecipe_warm``."""
    address = folder / "socket"
    # What the launcher of the recipe would give them before they import anything.
    environment = {**os.environ, **watched(1), "CUDA_VISIBLE_DEVICES": "", "GOMP_SPINCOUNT": "10000"}
    with (folder / "server.txt").open("wb") as errors:
        server = subprocess.Popen(
            [sys.executable, "-m", "smolrecipe_warm.server", str(address)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            preexec_fn=_die_with_tests,
        )
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n", (folder / "server.txt").read_text()
        yield Bench(settings=("launcher={use: warm}",), environment={"CHAOS_WARM": str(address)})
    finally:
        server.kill()
        server.communicate()


def children(process: int) -> list[int]:
    """The processes that a process has started and that have not ended."""
    found = []
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(word) for word in path.read_text().split()]
    return found


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a process group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def await_end(token: str, seconds: float = 20.0) -> None:
    """Wait until no process has ``token`` in its environment. Those that stay are killed, and fail the test."""
    end = time.monotonic() + seconds
    while left := list(_processes_with(token)):
        if time.monotonic() > end:
            for process in left:
                os.kill(process, signal.SIGKILL)
            raise AssertionError(f"processes {left} outlived their run")
        time.sleep(0.02)


def _processes_with(token: str) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if token.encode() in path.read_bytes():
                yield int(path.parent.name)
        except OSError:
            continue
