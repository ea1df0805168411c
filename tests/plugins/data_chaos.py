"""Runs data stages one after the other, each in a process forked from this one, and kills them where it is told to.

``python data_chaos.py BASE`` reads jobs from its input, one JSON object a line, and answers each with one::

    {"stage": "tokenize", "folder": ..., "kill_at": 17}  ->  {"code": -9, "events": 16}
    {"stage": "tokenize", "folder": ...}                 ->  {"code": 0, "events": 60, "summary": {...}, "said": [...]}

``kill_at`` kills the stage just before the file-system event of that number in its folder: a file opened to be written,
a rename, a deletion, a folder made or removed. ``kill_bytes`` has the kernel kill it in the middle of a write, when a
file grows beyond that many bytes; with ``full_disk`` the write fails instead. ``kill_seconds`` kills it so long after
it began. ``BASE`` holds what the stages read, which ``Chaos`` writes there.

``python data_chaos.py BASE tokenize FOLDER`` tokenises in two processes instead. Where the environment variable
``DATA_CHAOS_WORKER`` is a number, they are killed before that event of theirs.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_EVENTS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
_END = "<|end_of_text|>"
STAGES = ("train_tokenizer", "pretrained_tokenizer", "tokenize")
FILES = 2


class Events:
    """Counts file-system events in a folder, and kills this process before the one that it is told."""

    def __init__(self, folder: Path, kill_at: int | None) -> None:
        self.count = 0
        self._folder = str(folder)
        self._kill_at = kill_at
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            counts = isinstance(arguments[2], int) and bool(arguments[2] & _WRITING)
        else:
            counts = event in _EVENTS
        if counts and _path(arguments).startswith(self._folder):
            self.count += 1
            if self.count == self._kill_at:
                os.kill(os.getpid(), signal.SIGKILL)


def _path(arguments: tuple[Any, ...]) -> str:
    """What an event is about; a name is that of a file in the folder whose open descriptor stands behind it."""
    path = Path(os.fsdecode(arguments[0])) if isinstance(arguments[0], (str, bytes, Path)) else Path()
    if not path.is_absolute() and isinstance(arguments[-1], int) and arguments[-1] >= 0:
        path = Path(f"/proc/self/fd/{arguments[-1]}").readlink() / path
    return str(path)


def run(stage: str, base: Path, folder: Path, said: list[Any], *, workers: int = 1) -> Mapping[str, Any]:
    """Run a stage in its folder on what lies in ``base``, and return its summary."""
    import smolrecipe_data
    from smolrecipe import StageContext, StageRef, Use

    kinds = {kind.name: kind for kind in smolrecipe_data.smolrecipe_stages()}
    (files,) = (source for source in smolrecipe_data.smolrecipe_sources() if source.name == "files")
    sources = {name: Use(files, files.options(paths=[base / f"{name}.jsonl"])) for name in ("first", "second")}
    options = {
        "train_tokenizer": {"data": sources, "vocab_size": 300},
        "pretrained_tokenizer": {"file": base / "tokenizer" / "tokenizer.json", "pad_token": _END},
        "tokenize": {
            "tokenizer": StageRef("base"),
            "sources": sources,
            "held_out": 0.2,
            "files": FILES,
            "workers": workers,
        },
    }[stage]
    context = StageContext(recipe="r", stage="s", folder=folder, inputs={"base": base}, report=said.append)
    summary: Mapping[str, Any] = kinds[stage].run(kinds[stage].options(**options), context).summary
    return summary


def write_base(base: Path) -> None:
    """A tokenizer and two data sets."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens([_END])
    (base / "tokenizer").mkdir(parents=True)
    tokenizer.save(str(base / "tokenizer" / "tokenizer.json"))
    (base / "tokenizer" / "tokenizer_config.json").write_text(json.dumps({"eos_token": _END}))
    for name, count in (("first", 40), ("second", 60)):
        texts = [f"{name} {number} " + "la " * (number % 7) + "é\n" for number in range(count)]
        texts += ["", "half \ud800", f"a {_END} b"]
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (base / f"{name}.jsonl").write_text(lines)


def content(folder: Path) -> dict[str, str]:
    """Every file below a folder with its hash."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


class Chaos:
    """The process that this file is when it is run, with what its stages read."""

    def __init__(self, base: Path) -> None:
        write_base(base)
        self.base = base
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(base)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, stage: str, folder: Path, **job: Any) -> dict[str, Any]:
        """Run a stage there, and say how it ended."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps({"stage": stage, "folder": str(folder), **job}), file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)


def _child(job: Mapping[str, Any], base: Path, answer: int) -> None:
    """Run the job in this process, which is then over."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    if limit := job.get("kill_bytes") or job.get("full_disk"):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if "kill_bytes" in job:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    if "kill_seconds" in job:
        threading.Timer(job["kill_seconds"], os.kill, (os.getpid(), signal.SIGKILL)).start()
    folder, said = Path(job["folder"]), []
    events = Events(folder, job.get("kill_at"))
    told: dict[str, Any] = {"code": 0}
    try:
        told["summary"] = run(job["stage"], base, folder, said)
    except BaseException as error:
        chain = [error]
        while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
            chain.append(cause)
        numbers = [each.errno for each in chain if isinstance(each, OSError)]
        told = {"code": 1, "error": type(error).__name__, "message": str(error), "errno": numbers}
    os.write(answer, json.dumps({**told, "said": said, "events": events.count}).encode())
    os._exit(0)


def _answer(job: Mapping[str, Any], base: Path) -> dict[str, Any]:
    reading, writing = os.pipe()
    if (process := os.fork()) == 0:
        os.close(reading)
        _child(job, base, writing)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    _, status = os.waitpid(process, 0)
    code = os.waitstatus_to_exitcode(status)
    return json.loads(told) if code == 0 else {"code": code}


def _serve(base: Path) -> None:
    # What a stage imports is imported once, and nothing of it is used that starts threads: they survive no fork.
    import pandas  # noqa: F401  pyarrow's
    from datatrove.pipeline.tokens.tokenizer import DocumentTokenizer

    import smolrecipe_data.pretrained_tokenizer
    import smolrecipe_data.read_files
    import smolrecipe_data.tokenizing
    import smolrecipe_data.train_tokenizer  # noqa: F401

    DocumentTokenizer(str(base), "none")  # looks through what is installed
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line), base)), flush=True)


def _side_by_side(base: Path, stage: str, folder: Path) -> None:
    try:
        print(json.dumps(run(stage, base, folder, [], workers=2)))
    except Exception as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))


if __name__ == "__main__":
    if len(sys.argv) == 2:
        _serve(Path(sys.argv[1]))
    else:
        _side_by_side(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
elif __name__ == "__mp_main__" and "DATA_CHAOS_WORKER" in os.environ:
    Events(Path(sys.argv[-1]), int(os.environ["DATA_CHAOS_WORKER"]))
