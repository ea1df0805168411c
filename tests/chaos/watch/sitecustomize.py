"""Watches a process from within: kills it before a chosen change to the file system, or notes what it does.

Python imports this where its folder is on PYTHONPATH, in the process under test and in those that it starts. Variables
of the environment say what for; without them it does nothing. Writes that no audit event tells of (safetensors, Arrow,
torch's zip files) go unnoticed: kills at random times are for them.

CHAOS_RECORD        a folder: what happens is noted there, one file for each process
CHAOS_KILL_PREFIX   the process is killed at a change to a path that starts with this,
CHAOS_KILL_AT       the so many-th (from 1) that it makes,
CHAOS_KILL_ROLE     if it is one of the "runner" or of a "worker",
CHAOS_KILL_MOMENT   "before" the change, or, where a file is opened for writing, once it is "opened" and still empty
CHAOS_KILL_NOTE     a file that a killed process leaves: only one process is killed
CHAOS_ROLE          the role of this process, where its command line does not tell
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {
    # event -> where its arguments have paths, and the descriptors of the folders that those are relative to
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
    "os.remove": ((0, 1),),
    "os.mkdir": ((0, 2),),
    "os.rmdir": ((0, 1),),
    "os.truncate": ((0, None),),
    "os.chmod": ((0, 2),),
    "shutil.rmtree": ((0, None),),
}
_TARGETS = {"socket.connect": 1, "socket.sendto": 1, "socket.getaddrinfo": 0, "socket.gethostbyname": 0}
_FRAMES = 25
"""How far up a pickle's reader is looked for."""


def role() -> str:
    """What part of a run this process plays."""
    if given := os.environ.get("CHAOS_ROLE"):
        return given
    words = sys.orig_argv
    if "_stage" in words:
        return "launcher" if "torch.distributed.run" in words else "worker"
    return "runner" if "run" in words else "other"


def changed(event: str, arguments: tuple[Any, ...]) -> Iterator[str]:
    """The absolute paths that the event is about to change."""
    if event == "open":
        path, _, flags = arguments
        if isinstance(path, str | bytes | os.PathLike) and isinstance(flags, int) and flags & _WRITING:
            yield _absolute(path, None)
    for place, folder in _CHANGES.get(event, ()):
        if not isinstance(arguments[place], int):
            yield _absolute(arguments[place], None if folder is None else arguments[folder])


def _absolute(path: str | bytes | os.PathLike[Any], folder: int | None) -> str:
    text = os.fsdecode(path)
    if not os.path.isabs(text):
        start = os.getcwd() if folder is None or folder < 0 else os.readlink(f"/proc/self/fd/{folder}")
        text = os.path.join(start, text)
    return os.path.normpath(text)


class Killer:
    """Ends this process at a change; what dies with it is for the run after it to mend."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.prefix = environment["CHAOS_KILL_PREFIX"]
        self.left = int(environment["CHAOS_KILL_AT"])
        self.moment = environment["CHAOS_KILL_MOMENT"]
        self.note = environment["CHAOS_KILL_NOTE"]
        self.chosen = environment["CHAOS_KILL_ROLE"] == role()

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Count a change; at the last one, die."""
        paths = [path for path in changed(event, arguments) if path.startswith(self.prefix)] if self.chosen else []
        if not paths:
            return
        self.left -= 1
        if self.left:
            return
        self.chosen = False  # what follows is the killer's own doing
        try:
            note = os.open(self.note, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            return
        os.write(note, json.dumps({"event": event, "path": paths[0], "moment": self.moment}).encode())
        if event == "open" and self.moment == "opened":
            os.open(paths[0], arguments[2], 0o644)
        os.kill(os.getpid(), signal.SIGKILL)


class Recorder:
    """Notes changes, network targets, processes that are started, and what pickles import while which file is read."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.process: int | None = None
        self.file = -1
        self.read: str | None = None
        self.busy = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note the event, if it is of a kind that is noted."""
        if self.busy:
            return
        self.busy = True
        try:
            for note in self._notes(event, arguments):
                self._write({"event": event, "time": time.time(), **note})
        finally:
            self.busy = False

    def _notes(self, event: str, arguments: tuple[Any, ...]) -> Iterator[dict[str, Any]]:
        if event == "pickle.find_class":
            yield {"class": f"{arguments[0]}.{arguments[1]}", "last_read": self.read, "stack": [*_readers()]}
        elif event in _TARGETS:
            yield {"target": repr(arguments[_TARGETS[event]])}
        elif event == "subprocess.Popen":
            yield {"command": [os.fsdecode(word) for word in arguments[1]]}
        else:
            for path in changed(event, arguments):
                yield {"path": path}
                return  # a change is one, whatever it moves
            if event == "open" and isinstance(arguments[0], str):
                self.read = _absolute(arguments[0], None)

    def _write(self, note: dict[str, Any]) -> None:
        if self.process != os.getpid():  # also after a fork
            self.process = os.getpid()
            path = os.path.join(self.folder, f"{role()}-{self.process}.jsonl")
            self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(self.file, json.dumps(note).encode() + b"\n")


def _readers() -> Iterator[list[str]]:
    """The functions that are at work, the innermost first, each with the names of files among its variables."""
    frame = sys._getframe(3)
    for _ in range(_FRAMES):
        if frame is None:
            return
        files = [value for value in frame.f_locals.values() if isinstance(value, io.IOBase)]
        named = [name for file in files if isinstance(name := getattr(file, "name", None), str)]
        names = [_absolute(name, None) for name in named]
        yield [f"{frame.f_code.co_filename}:{frame.f_code.co_name}", *names]
        frame = frame.f_back


def install() -> None:
    """Watch this process from now on, as its environment says."""
    if "CHAOS_KILL_PREFIX" in os.environ:
        sys.addaudithook(Killer(dict(os.environ)))
    if "CHAOS_RECORD" in os.environ:
        sys.addaudithook(Recorder(os.environ["CHAOS_RECORD"]))


def _pass_on() -> None:
    """Run the sitecustomize that this one hides, if there is one."""
    from importlib.machinery import PathFinder

    here = os.path.dirname(os.path.abspath(__file__))
    spec = PathFinder.find_spec("sitecustomize", [path for path in sys.path if os.path.abspath(path) != here])
    if spec is not None and spec.loader is not None:
        from importlib.util import module_from_spec

        spec.loader.exec_module(module_from_spec(spec))


_pass_on()
install()
