"""Stages of pretraining to which something happens: a server that trains what tests ask of it (``titan_trainings.py``).

Importing torchtitan takes seconds, and what happens to these stages mostly ends their processes. So one process imports
everything once (``python titan_chaos.py FOLDER``), reads what to train line by line; each process of each stage is a
fork of it. Tests say what is to happen where, and get what every process of the stage saw.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import signal
import socket
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from attrs import Factory, frozen
from titan_toys import ADAM, PACKER, AdamOptions, make_model, make_options, train

from smolrecipe import NoOptions, StageError, StageRef, StageStopped, Use
from smolrecipe.stage import METRICS_FILE, die_with_parent, read_events
from smolrecipe_torchtitan import ParallelismOptions

PATIENCE = 60.0
"""Seconds that a stage may take; one that takes longer hangs, and is ended."""


ONE = {"options": {"steps": 8, "checkpoint_every": 2, "keep_checkpoints": 2}}
"""What most of these stages are: they publish two of their four checkpoints."""

TWO = {"options": {**ONE["options"], "micro_batch": 2}, "layout": {"data_parallel": 2}}
"""The same shared by two processes."""


@frozen(kw_only=True)
class Happening:
    """What happens to one process of a stage, and when.

    ``step`` is one that is about to be made; ``event`` and ``path`` are an audit event (``open`` for writing,
    ``os.rename``, ``os.remove``, ...) and the file or folder in the stage's own that it is about; ``held_out`` counts
    held-out batches, ``seconds`` from the start. ``target`` is the file that is damaged, or has no room. ``after`` is a
    file that has to be there first: checkpoints are written beside training, and take as long as they take.
    """

    what: str
    rank: int = 0
    step: int | None = None
    event: str = ""
    path: str = ""
    held_out: int | None = None
    seconds: float | None = None
    target: str = ""
    after: str = ""


@frozen(kw_only=True)
class Training:
    """A stage to train in the folder ``name``, or to go on with."""

    name: str
    options: Mapping[str, Any] = Factory(dict)
    layout: Mapping[str, Any] = Factory(dict)
    happens: Sequence[Happening] = ()
    inputs: Sequence[str] = ()
    breaks: float | None = None
    watch_pickles: bool = False


@frozen(kw_only=True)
class Seen:
    """What one process of a stage told, or nothing but its exit code where it was killed.

    ``outcome`` is ``done``, the sentence of its error, or ``stopped after step n``; ``causes`` are the types of errors
    behind it; ``read`` has sample and checksum of every row, in order; ``seconds`` from start to end.
    """

    code: int
    seconds: float
    outcome: str = ""
    causes: Sequence[str] = ()
    said: Sequence[str] = ()
    steps: Sequence[int] = ()
    saved: Sequence[int] = ()
    read: Sequence[Sequence[int]] = ()
    events: Sequence[Sequence[str]] = ()
    pickles: Sequence[str] = ()
    measures: Sequence[float | None] = ()
    output: str = ""


# --- in a stage's process ---------------------------------------------------------------------------------------------


class Fate:
    """Watches over one process, and lets happen to it what is to happen."""

    def __init__(self, training: Training, folder: Path, rank: int) -> None:
        self.folder = folder / training.name
        self.mine = [happening for happening in training.happens if happening.rank == rank]
        self.events: list[tuple[str, str]] = []
        self.pickles: set[str] = set()
        self.held_out = 0
        sys.addaudithook(self._audit)
        self._watch_pickles = training.watch_pickles
        self.trainer: Any = None
        for happening in self.mine:
            if happening.seconds is not None:
                signal.setitimer(signal.ITIMER_REAL, happening.seconds)  # whose signal ends a process as SIGKILL does

    def befall(self, happening: Happening) -> None:
        end = time.monotonic() + PATIENCE
        while not (self.folder / happening.after).exists() and time.monotonic() < end:
            time.sleep(0.01)
        path = self.folder / happening.target
        if happening.what in ("SIGKILL", "SIGTERM", "SIGSTOP"):
            os.kill(os.getpid(), getattr(signal, happening.what))
        elif happening.what == "explosion":
            loss = self.trainer.loss_fn

            def large(*args: Any, **kwargs: Any) -> Any:
                value, counted = loss(*args, **kwargs)
                return value * 1e30, counted

            self.trainer.loss_fn = large
        elif happening.what == "nan":
            for part in self.trainer.model_parts:
                for parameter in part.parameters():
                    parameter.detach().mul_(float("nan"))
        elif happening.what == "flip":
            flip_bit(path)
        elif happening.what == "unpickle":
            pickle.loads(pickle.dumps(Happening))
        elif happening.what == "vanish":
            raise FileNotFoundError(2, "No such file or directory", "tokens.ds")
        elif happening.what == "full disk":
            # Whatever is written there meets a device without room, as on a full disk.
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to("/dev/full")
        else:
            raise ValueError(happening.what)

    def before_step(self, trainer: Any) -> None:
        self.trainer = trainer
        for happening in self.mine:
            if happening.step == trainer.own_step:
                self.befall(happening)

    def before_held_out(self, trainer: Any) -> None:
        self.trainer = trainer
        self.held_out += 1
        for happening in self.mine:
            if happening.held_out == self.held_out:
                self.befall(happening)

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "pickle.find_class" and self._watch_pickles:
            self.pickles.add(f"{args[0]}.{args[1]} {_asked_by()}")
        if event == "open" and not (isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        if event not in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"):
            return
        path = args[1] if event == "os.rename" else args[0]
        if isinstance(path, int) or not isinstance(path, (str, os.PathLike)):
            return
        if event in ("os.remove", "os.rmdir") and len(args) > 1 and args[1] != -1:
            path = Path(f"/proc/self/fd/{args[1]}").readlink() / path
        path = Path(path).absolute()
        if not path.is_relative_to(self.folder):
            return
        found = (event, str(path.relative_to(self.folder)))
        self.events.append(found)
        for happening in self.mine:
            if (happening.event, happening.path) == found:
                self.befall(happening)


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _asked_by() -> str:
    """Who unpickles: ``file`` unless it is PyTorch, for an object that another process of this stage has sent."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name == "_tensor_to_object":
            return "process"
        frame = frame.f_back
    return "file"


def live(training: Training, folder: Path, rank: int, world: int, port: int) -> None:
    """Be process ``rank`` of a stage, to the end."""
    output = os.open(folder / f"{training.name}-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    fate = Fate(training, folder, rank)
    lead(fate)
    told: dict[str, Any] = {"outcome": "done"}
    read = folder / f"{training.name}-{rank}.read"
    events = (folder / f"{training.name}-{rank}.events").open("w", buffering=1)
    try:
        artifact = train(
            folder,
            training.name,
            options_of(training, read),
            lambda event: print(json.dumps(event), file=events),
            **{name: folder / name for name in training.inputs},
        )
        told["measures"] = [artifact["before"], artifact["after"]]
    except (StageError, StageStopped) as error:
        told["outcome"], told["causes"] = str(error), [type(cause).__name__ for cause in _chain(error)]
    except BaseException as error:
        traceback.print_exc()
        told["outcome"], told["causes"] = "crash", [type(cause).__name__ for cause in _chain(error)]
    told["events"], told["pickles"] = fate.events, sorted(fate.pickles)
    (folder / f"{training.name}-{rank}.json").write_text(json.dumps(told))
    sys.stdout.flush()
    # As an interpreter ends: threads that still save hold it up.
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    os._exit(0 if told["outcome"] == "done" else 1)


def lead(fate: Fate) -> None:
    """Let fate know of steps and held-out batches."""
    from smolrecipe_torchtitan import held_out
    from smolrecipe_torchtitan.trainer import StageTrainer

    train_step, measure = StageTrainer.train_step, held_out._loss_and_labels

    def watched_step(self: Any, batches: Any) -> None:
        fate.before_step(self)
        train_step(self, batches)

    def watched_measure(trainer: Any, batches: Any) -> Any:
        fate.before_held_out(trainer)
        return measure(trainer, batches)

    StageTrainer.train_step = watched_step  # type: ignore[method-assign]
    held_out._loss_and_labels = watched_measure


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def options_of(training: Training, read: Path) -> Any:
    """The options of the stage, with a packer that notes every row on disk, where a kill leaves it."""
    from attrs import evolve

    def note(rows: Any) -> Any:
        row = type(rows).row

        class Noting(type(rows)):  # type: ignore[misc]
            def row(self, sample: int) -> Any:
                found = row(self, sample)
                if sys._getframe(1).f_globals["__name__"] == "smolrecipe_torchtitan.samples":  # to train on
                    with read.open("a") as file:
                        file.write(f"{self.start + sample} {zlib.crc32(found.tokens.tobytes())}\n")
                return found

        return Noting(rows.length, rows.seed, rows.start)

    read.write_text("")
    packer = evolve(PACKER, open=lambda *args: note(PACKER.open(*args)))
    options = dict(training.options)
    if "from_" in options:
        options["from_"] = StageRef(*options["from_"])
    if "layers" in options:
        options["model"] = make_model(num_layers=options.pop("layers"))
    return make_options(
        data=Use(packer, NoOptions()),
        optimizer=Use(ADAM, AdamOptions(breaks=training.breaks)),
        parallelism=ParallelismOptions(**training.layout),
        **options,
    )


def files_of(folder: Path) -> dict[str, str]:
    """Every file of a stage but its metrics, which tell the time, with its checksum; and folders without any."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
        if path.name != METRICS_FILE and (path.is_file() or not any(path.iterdir()))
    }


# --- the server -------------------------------------------------------------------------------------------------------


def serve(folder: Path) -> None:
    """Train what standard input asks for, and tell what was seen on standard output."""
    from smolrecipe_torchtitan.device import use_device

    die_with_parent()
    use_device("cpu")
    import torch

    import smolrecipe_torchtitan.pretrain  # noqa: F401
    from smolrecipe_torchtitan.assemble import draft_model

    torch.set_num_threads(1)
    draft_model(make_options())
    for line in sys.stdin:
        asked = json.loads(line)
        asked["happens"] = [Happening(**happening) for happening in asked["happens"]]
        print(json.dumps(run(Training(**asked), folder)), flush=True)


def run(training: Training, folder: Path) -> list[dict[str, Any]]:
    """Fork the processes of a stage and wait for them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1] % 60000 + 1024
    world = ParallelismOptions(**training.layout).processes
    processes = [
        get_context("fork").Process(target=live, args=(training, folder, rank, world, port)) for rank in range(world)
    ]
    for rank in range(world):
        for kind in ("json", "events", "read", "txt"):
            (folder / f"{training.name}-{rank}.{kind}").unlink(missing_ok=True)
    started, ended = time.monotonic(), dict[int, float]()
    for process in processes:
        process.start()
    while len(ended) < world and time.monotonic() < started + PATIENCE:
        for rank, process in enumerate(processes):
            if rank not in ended and process.exitcode is not None:
                ended[rank] = time.monotonic() - started
        hangs = any(happening.what == "SIGSTOP" and happening.rank not in ended for happening in training.happens)
        if hangs and len(ended) == world - 1:
            break  # it hangs until the others have ended, as the launcher would let it
        time.sleep(0.01)
    seen = []
    for rank, process in enumerate(processes):
        process.kill()
        process.join()
        told, read = folder / f"{training.name}-{rank}.json", folder / f"{training.name}-{rank}.read"
        events = read_events(folder / f"{training.name}-{rank}.events")
        seen.append(
            {
                "code": process.exitcode,
                "seconds": ended.get(rank, PATIENCE),
                "read": [
                    [int(word) for word in line.split()]
                    for line in (read.read_text().splitlines() if read.exists() else ())
                ],
                "said": [event["message"] for event in events if "message" in event],
                "steps": [event["step"] for event in events if "step" in event],
                "saved": [event["checkpoint"] for event in events if "checkpoint" in event],
                "output": (folder / f"{training.name}-{rank}.txt").read_text()[-4000:],
                **(json.loads(told.read_text()) if told.exists() else {}),
            }
        )
    return seen


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
