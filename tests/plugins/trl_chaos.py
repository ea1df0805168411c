"""Runs TRL stages one after the other, each in a process forked from this one, and kills them where it is told to.

``python trl_chaos.py BASE`` reads jobs from its input, one JSON object a line, and answers each with one::

    {"kind": "sft", "folder": ..., "log": ..., "kill_at": 17}  ->  {"code": -9, "said": ""}

The stage is killed just before the file-system event of that number in its folder: a file opened to be written, a
rename, a deletion, a folder made or removed. What each step is trained on is logged. With ``rank``, ``world_size`` and
``port`` it is one of several processes, and ``signal`` (``["SIGSTOP", 3]``) is what it sends itself in step 3.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
import trl_toys
from attrs import frozen
from safetensors.torch import load_file

from smolrecipe.running.metrics import MetricsWriter
from smolrecipe.stage import die_with_parent
from smolrecipe_trl import Parallelism

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_EVENTS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"}


def beside(log: Path, what: str) -> Path:
    """Another file of the process that writes this log."""
    return log.with_name(f"{log.name}.{what}")


class Server:
    """The process that forks one for each job."""

    def __init__(self, base: Path) -> None:
        command = [sys.executable, __file__, str(base)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=trl_toys.environment(),
        )

    def start(self, **job: Any) -> None:
        """Start a job; ``answer`` waits for its end."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job, default=str) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Mapping[str, Any]:
        assert self._process.stdout is not None
        answer: Mapping[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def run(self, **job: Any) -> Mapping[str, Any]:
        self.start(**job)
        return self.answer()

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@frozen
class Ended:
    """What a stage left: its folder and what it was seen to do."""

    folder: Path
    log: Path

    def rows(self) -> dict[int, list[str]]:
        """Step -> rows, of every time that it was made."""
        found: dict[int, list[str]] = {}
        for line in self.log.read_text().splitlines() if self.log.exists() else ():
            entry = json.loads(line)
            found.setdefault(entry["step"], []).append(entry["row"])
        return found

    def weights(self) -> dict[str, dict[str, Any]]:
        return {str(path.relative_to(self.folder)): load_file(path) for path in self.folder.rglob("model.safetensors")}

    def files(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()}

    def artifact(self) -> Any:
        return json.loads(beside(self.log, "artifact").read_text())


class Events:
    """Counts file-system events in a folder, and kills this process before the one that it is told."""

    def __init__(self, folder: Path, kill_at: int | None) -> None:
        self.count = 0
        self._folder = str(folder)
        self._kill_at = kill_at
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            _, mode, flags = arguments
            counts = bool(flags & _WRITING) if isinstance(flags, int) else any(sign in (mode or "") for sign in "wax+")
        else:
            counts = event in _EVENTS
        if counts and any(isinstance(one, (str, Path)) and str(one).startswith(self._folder) for one in arguments):
            self.count += 1
            if self.count == self._kill_at:
                os.kill(os.getpid(), signal.SIGKILL)


def log_rows(path: Path, send: tuple[str, int] | None) -> None:
    """Note the rows that each step is trained on, in the order of its micro-batches; send a signal in one of them."""
    from smolrecipe_trl.preference_trainer import PreferenceTrainer
    from smolrecipe_trl.sft import SftTrainer

    for kind in (SftTrainer, PreferenceTrainer):
        original = kind.training_step

        def logged(self: Any, model: Any, inputs: Any, *more: Any, _original: Any = original, **named: Any) -> Any:
            step = self.state.global_step + 1
            for row in inputs["input_ids"].tolist():
                seen = hashlib.sha256(repr(row).encode()).hexdigest()[:12]
                with path.open("a") as file:
                    file.write(json.dumps({"step": step, "row": seen}) + "\n")
            if send is not None and send[1] == step:
                os.kill(os.getpid(), getattr(signal, send[0]))
            return _original(self, model, inputs, *more, **named)

        kind.training_step = logged


def options_of(job: Mapping[str, Any], processes: int) -> Any:
    """The options of the stages of these tests: packed rows, a reference model, a checkpoint on the way."""
    layout = Parallelism(processes=processes, timeout_seconds=job.get("timeout_seconds", 60))
    changes = {"checkpoint_every": 2, "max_steps": 6, "micro_batch": 1, "parallelism": layout}
    if job.get("breaks"):
        changes["optimizer"] = trl_toys.breaking(job["breaks"])
    if job.get("hangs"):
        changes["data"] = {"sums": trl_toys.rows(hanging, 0, 64)}
    if job["kind"] == "sft":
        return trl_toys.sft_options(**changes)
    return trl_toys.preference_options(trl_toys.APO, keep=(0.5,), **changes)


def hanging(start: int, end: int) -> Iterator[Any]:
    """A source that stops the process that reads it in the middle."""
    yield from trl_toys.sums(start, end // 2)
    if end > 2:
        os.kill(os.getpid(), signal.SIGSTOP)
    yield from trl_toys.sums(end // 2, end)


def run_job(job: Mapping[str, Any], base: Path) -> str:
    """Run the stage of a job here, in a process of its own; returns how many events it saw."""
    folder, log = Path(job["folder"]), Path(job["log"])
    log.parent.mkdir(parents=True, exist_ok=True)
    beside(log, "pid").write_text(str(os.getpid()))
    process = {"rank": job.get("rank", 0), "local_rank": job.get("rank", 0), "world_size": job.get("world_size", 1)}
    if process["world_size"] > 1:
        os.environ.update({name.upper(): str(number) for name, number in process.items()})
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(job["port"]))
    log_rows(log, job.get("signal"))
    where = trl_toys.context(folder, base, **process)
    events = Events(folder, job.get("kill_at"))
    write = MetricsWriter(beside(log, "metrics"))
    options = options_of(job, process["world_size"])
    stage = trl_toys.run_sft if job["kind"] == "sft" else trl_toys.run_preference
    artifact = stage(options, attrs.evolve(where, report=write))
    beside(log, "artifact").write_text(json.dumps(attrs.asdict(artifact)))
    return str(events.count)


def main(base: Path) -> None:
    """Fork for each job, so that what takes longest, the imports, is done once."""
    torch.set_num_threads(1)
    import smolrecipe_trl.preference
    import smolrecipe_trl.sft  # noqa: F401

    for line in sys.stdin:
        job = json.loads(line)
        read, write = os.pipe()
        child = os.fork()
        if not child:
            code = 1
            die_with_parent()
            try:
                os.write(write, run_job(job, base).encode())
                code = 0
            except BaseException as error:
                os.write(write, f"{type(error).__name__}: {error}".encode())
            finally:
                os._exit(code)
        os.close(write)
        with os.fdopen(read) as told:
            said = told.read()
        _, status = os.waitpid(child, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status), "said": said}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
