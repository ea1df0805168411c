"""Two processes under the local launcher, of which one dies, hangs or fails: who is blamed, and that nobody is left.

The processes are real and meet by gloo; their collectives time out as an engine's would.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smolrecipe.stage import read_events

Write = Callable[..., Path]
Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., subprocess.Popen[str]]
Plant = Callable[..., Path]

STAGE = """
import json, os, signal, time
from datetime import timedelta
from attrs import frozen
import smolrecipe
from smolrecipe import Artifact, Devices, StageError, StageKind, StageStopped, option


@frozen(kw_only=True)
class Options:
    steps: int = option(default=6, doc="steps")
    seconds: float = option(default=0.05, doc="of a step", identity=False)
    saving: float = option(default=0.0, doc="seconds that saving takes", identity=False)
    damage: str = option(default="none", doc="what happens in step 4", identity=False)
    rank: int = option(default=1, doc="to which process", identity=False)
    timeout: float = option(default=300.0, doc="of a collective, in seconds", identity=False)


def hurt(damage):
    if damage == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if damage == "segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    if damage == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if damage == "terminate":
        os.kill(os.getpid(), signal.SIGTERM)
    if damage == "refuse":
        raise StageError("the loss is not finite in step 4")
    if damage == "crash":
        raise ZeroDivisionError("a bug")
    if damage == "no room":
        raise OSError(28, os.strerror(28))


def run(options, context):
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=timedelta(seconds=options.timeout))
    asked = (lambda: False) if options.damage == "terminate" else context.heed_stop()
    state = context.folder / "state.json"
    step = json.loads(state.read_text()) if state.exists() else 0

    def save():
        dist.barrier()
        time.sleep(options.saving)
        if context.rank == 0:
            state.with_suffix(".new").write_text(json.dumps(step))
            state.with_suffix(".new").replace(state)
        context.saved(step)
        dist.barrier()

    while step < options.steps:
        step += 1
        if step == 4 and context.rank == options.rank:
            hurt(options.damage)
        stop = torch.tensor(float(asked()))
        dist.all_reduce(stop)
        time.sleep(options.seconds)
        context.progress(step, options.steps, loss=1 / step)
        if step == 2:
            save()
        if stop > 0:
            save()
            raise StageStopped(step)
    dist.destroy_process_group()
    if context.rank == 0:
        state.unlink(missing_ok=True)
    return Artifact()


@smolrecipe.hookimpl
def smolrecipe_stages():
    yield StageKind(name="pair", summary="two processes", options=Options, run=run,
                    produces=lambda options: {"number": True}, devices=lambda options: Devices(processes=2))
"""


@pytest.fixture
def recipe(plant: Plant, write_recipe: Write, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    plant("smolrecipe_planted", {"__init__.py": STAGE}, plugin="planted")
    monkeypatch.setenv("SMOLRECIPE_PLUGINS", "planted,local")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def recipe(**options: Any) -> Path:
        return write_recipe(f"name: t\nstages:\n  one: {json.dumps({'use': 'pair', **options})}\n")

    return recipe


BOUND = 50
"""Seconds after which nobody is left: torchrun kills after 30 those that do not heed it. Collectives wait longer."""


def seconds_since_the_last_step(tmp_path: Path) -> float:
    (metrics,) = tmp_path.glob("runs/t/one-*/metrics.jsonl")
    last: float = read_events(metrics)[-1]["time"]
    return time.time() - last


def left_running(tmp_path: Path) -> list[str]:
    """Command lines of processes that work for runs in this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # it has just ended
    return [line for line in found if str(tmp_path) in line and "pytest" not in line.split(str(tmp_path))[0]]


@pytest.mark.parametrize(
    ("damage", "rank", "sentence"),
    [
        ("kill", 1, r"'one' lost rank 1 of 2 \(process \d+ on \S+\), which was ended by SIGKILL \(out of memory\?"),
        ("refuse", 1, r"'one': the loss is not finite in step 4\n"),
        *(
            pytest.param(*case, marks=pytest.mark.chaos)
            for case in (
                ("kill", 0, r"'one' lost rank 0 of 2 \(process \d+ on \S+\), which was ended by SIGKILL \(out of mem"),
                ("segv", 1, r"'one' lost rank 1 of 2 \(process \d+ on \S+\), which was ended by SIGSEGV \(a fault in"),
                ("terminate", 1, r"'one' lost rank 1 of 2 \(process \d+ on \S+\), which was ended by SIGTERM \(from"),
                ("crash", 1, r"'one' failed in step 4: rank 1 of 2 \(process .*\) crashed with ZeroDivisionError: a"),
                ("no room", 1, r"'one' failed in step 4: rank 1 of 2 \(process .*\) ended: cannot write in "),
            )
        ),
    ],
)
def test_the_process_that_failed_is_named_and_the_others_are_ended(
    recipe: Callable[..., Path], smolrecipe: Run, tmp_path: Path, damage: str, rank: int, sentence: str
) -> None:
    """Not the one that lost it, whose "Connection closed by peer" may well come first."""
    result = smolrecipe("run", recipe(damage=damage, rank=rank), check=1)
    assert seconds_since_the_last_step(tmp_path) < BOUND
    assert re.search(sentence, result.stderr), result.stderr
    assert "closed by peer" not in result.stderr
    if damage in ("kill", "segv"):
        assert ", in step 4; the others cannot go on without it" in result.stderr
    assert "last good step: 2, saved; its log: runs/t/one-" in result.stderr
    assert left_running(tmp_path) == []


def test_a_process_that_hangs_is_named_by_what_the_others_waited_for_and_is_ended(
    recipe: Callable[..., Path], smolrecipe: Run, tmp_path: Path
) -> None:
    result = smolrecipe("run", recipe(damage="stop", timeout=4), check=1)
    assert seconds_since_the_last_step(tmp_path) < 4 + BOUND
    assert re.search(
        r"'one' hung: rank 1 of 2 \(process \d+ on \S+\) did not answer in step 4, and the others gave up waiting "
        r"\(RuntimeError: .*Timed out waiting",
        result.stderr,
    ), result.stderr
    assert left_running(tmp_path) == []


def test_sigterm_reaches_both_and_what_they_save_is_waited_for(
    recipe: Callable[..., Path],
    smolrecipe: Run,
    start_smolrecipe: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "1")  # torchrun's own grace period, which is not to count
    path = recipe(steps=400, saving=4)
    process = start_smolrecipe(["run", path])
    end = time.monotonic() + 60
    while not any('"step": 3' in file.read_text() for file in tmp_path.glob("runs/t/one-*/metrics.jsonl")):
        assert time.monotonic() < end and process.poll() is None, "it does not begin"
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    (state,) = tmp_path.glob("runs/t/one-*/state.json")
    saved = json.loads(state.read_text())
    assert f"interrupted in stage 'one', saved after step {saved}\n  to go on: smolrecipe run {path}" in said
    assert left_running(tmp_path) == []
    smolrecipe("run", path, "--set", "stages.one.seconds=0", check=0)
    (metrics,) = tmp_path.glob("runs/t/one-*/metrics.jsonl")
    assert [event["step"] for event in read_events(metrics) if "step" in event] == [*range(1, 401)]


def test_kill_9_of_the_runner_takes_all_of_them_with_it(
    recipe: Callable[..., Path], start_smolrecipe: Start, tmp_path: Path
) -> None:
    process = start_smolrecipe(["run", recipe(steps=4000)])
    end = time.monotonic() + 60
    while not any('"step": 3' in file.read_text() for file in tmp_path.glob("runs/t/one-*/metrics.jsonl")):
        assert time.monotonic() < end and process.poll() is None, "it does not begin"
        time.sleep(0.05)
    assert len([line for line in left_running(tmp_path) if " _stage " in line]) == 3
    process.kill()
    process.wait()
    end = time.monotonic() + 10
    while left_running(tmp_path):
        assert time.monotonic() < end, left_running(tmp_path)
        time.sleep(0.05)


def test_a_worker_whose_launcher_is_gone_before_it_begins_ends(
    recipe: Callable[..., Path], smolrecipe: Run, tmp_path: Path
) -> None:
    smolrecipe("run", recipe(damage="refuse"), check=1)
    (task,) = tmp_path.glob("runs/t/one-*/task.json")
    (metrics,) = tmp_path.glob("runs/t/one-*/metrics.jsonl")
    before = metrics.read_bytes()
    orphan = subprocess.run(
        [sys.executable, "-m", "smolrecipe", "_stage", task],
        env={**os.environ, "SMOLRECIPE_LAUNCHER": str(2**22 + 1)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert orphan.returncode == 1 and not orphan.stderr, orphan.stderr
    assert metrics.read_bytes() == before
