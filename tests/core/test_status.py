"""How far a run has come, told from its folder: while it is written, killed, failed, done, damaged or a stranger's."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smolrecipe.running.notes import OwnNote
from smolrecipe.running.progress import run_progress
from smolrecipe.running.run_lock import hold_run

Write = Callable[..., Path]
Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., subprocess.Popen[str]]

RECIPE = """\
name: toy
launcher: {use: direct}
stages:
  zero: {use: count, to: 2}
  one: {use: count, from: zero, to: %d, seconds: %s}
  two: {use: count, from: one, to: 3}
"""


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def asked(smolrecipe: Run, root: Path, code: int = 0) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(smolrecipe("status", root, "--json", check=code).stdout)
    return told


def statuses(told: dict[str, Any]) -> list[str]:
    return [stage["status"] for stage in told["stages"]]


@pytest.fixture
def killed(toy_plugin: None, write_recipe: Write, start_smolrecipe: Start, smolrecipe: Run, tmp_path: Path) -> Path:
    """A run that was looked at while it was written, and then killed."""
    root = tmp_path / "runs" / "toy"
    process = start_smolrecipe(["run", write_recipe(RECIPE % (1000, 0.02))])
    wait_for(lambda: bool([*root.glob("one-*.partial/metrics.jsonl")]))
    wait_for(lambda: any((stage.step or 0) >= 5 for stage in run_progress(root).stages if stage.stage == "one"))
    told = asked(smolrecipe, root)
    assert statuses(told) == ["published", "running", "not begun"]
    one = told["stages"][1]
    assert 5 <= one["step"] < one["steps"] == 1000
    assert one["seconds_left"] == pytest.approx((1000 - one["step"]) * 0.02, rel=1.0)
    assert [(writer["process"], writer["gone"]) for writer in told["writers"]] == [(process.pid, False)]
    assert not told["over"]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: run_progress(root).is_over)
    return root


def test_a_run_is_told_while_it_is_written_after_a_kill_and_when_it_is_done(
    killed: Path, smolrecipe: Run, write_recipe: Write
) -> None:
    told = asked(smolrecipe, killed)
    assert statuses(told) == ["published", "interrupted", "not begun"]
    assert told["over"] and [writer["gone"] for writer in told["writers"]] == [True]
    lines = smolrecipe("status", killed, check=0).stdout.splitlines()
    assert [line.split()[:2] for line in lines[:4]] == [
        ["stage", "status"], ["zero", "published"], ["one", "interrupted"], ["two", "not"],
    ]  # fmt: skip
    assert lines[-1].startswith("written by process ") and lines[-1].endswith(", which is gone")
    smolrecipe("run", write_recipe(RECIPE % (1000, 0)), "--set", "stages.one.to=1000", check=0)
    done = asked(smolrecipe, killed)
    assert statuses(done) == ["published"] * 3 and done["writers"] == [] and done["over"]
    assert smolrecipe("status", killed, "--watch", check=0).stdout.splitlines()[-1] == (
        f"{killed}: 3 of 3 stages published, nobody writes it"
    )


def test_a_failed_stage_is_told_with_its_sentence(
    toy_plugin: None, write_recipe: Write, smolrecipe: Run, tmp_path: Path
) -> None:
    smolrecipe("run", write_recipe(RECIPE.replace("to: 3", "to: 3, behave: refuse") % (5, 0)), check=1)
    (told,) = [stage for stage in asked(smolrecipe, tmp_path / "runs/toy")["stages"] if stage["stage"] == "two"]
    assert told["status"] == "failed" and "set behave to 'well'" in told["message"]
    said = smolrecipe("status", tmp_path / "runs/toy", check=0).stdout
    assert f"two: {told['message']}" in said and "no checkpoint was saved" in said


@pytest.mark.parametrize(
    "path",
    ["stage.json", "../run.lock", "../provenance/{}.json"],
)
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff" * 50, b'{"stages": {"../../x": {"digest": "0"}}}'])
def test_damage_is_told_or_passed_over(
    toy_plugin: None, write_recipe: Write, smolrecipe: Run, tmp_path: Path, path: str, content: bytes
) -> None:
    smolrecipe("run", write_recipe("name: toy\nlauncher: {use: direct}\nstages:\n  zero: {use: count, to: 2}\n"))
    root = tmp_path / "runs" / "toy"
    (artifact,) = root.glob("zero-*")
    (document,) = root.glob("provenance/*.json")
    (artifact / path.format(document.stem)).write_bytes(content)
    (told,) = run_progress(root).stages
    assert told.stage == "zero"
    assert (told.status == "damaged") == (path == "stage.json")
    assert "Traceback" not in smolrecipe("status", root, check=0).stderr


def test_hostile_events_are_told_as_they_can_be(tmp_path: Path, smolrecipe: Run) -> None:
    events = [
        {"step": 1, "steps": 5, "loss": float("nan"), "time": 1e308},
        {"step": 2, "steps": 5, "loss": 10**400, "time": "now"},
        {"step": 10**30, "steps": 5, "loss": "low\x1b[31m", "time": -1},
    ]
    folder = tmp_path / "runs" / "odd" / f"one-{'0' * 12}.partial"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events) + '{"step": 3, "st')
    (told,) = run_progress(folder.parent).stages
    assert (told.status, told.step, told.seconds_left, told.numbers) == ("interrupted", 10**30, None, {})
    said = smolrecipe("status", folder.parent, check=0)
    assert "\x1b" not in said.stdout and "Traceback" not in said.stderr


LOCKS = [
    {"process": "x"}, {"process": 1.5}, {"process": None}, {"process": {}}, {"process": 10**30}, {"process": -1},
    {"process": True}, {"host": 3}, {"since": None}, {"command": ["a"]},
]  # fmt: skip


@pytest.mark.parametrize("change", LOCKS, ids=str)
def test_a_lock_that_is_none_names_nobody(tmp_path: Path, change: dict[str, Any]) -> None:
    lock = {"process": os.getpid(), "host": socket.gethostname(), "since": "now", "command": "run", **change}
    (tmp_path / f"one-{'0' * 12}.partial").mkdir()
    (tmp_path / "run.lock").write_text(json.dumps(lock))
    assert run_progress(tmp_path).writers == []
    with hold_run(tmp_path, "smolrecipe run"):  # and keeps nobody from running
        assert [writer.process for writer in run_progress(tmp_path).writers] == [os.getpid()]


def test_pipes_are_not_waited_for(tmp_path: Path, smolrecipe: Run) -> None:
    partial = tmp_path / f"one-{'0' * 12}.partial"
    (partial / ".processes").mkdir(parents=True)
    for path in (tmp_path / "run.lock", partial / "metrics.jsonl", partial / ".processes" / "0.json"):
        os.mkfifo(path)
    assert "one" in smolrecipe("status", tmp_path, check=0).stdout


def test_nothing_is_locked_or_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner judges by the lock on a note whether its process lives: a look must not take it."""
    partial = tmp_path / f"one-{'0' * 12}.partial"
    partial.mkdir()
    own = OwnNote(partial, 0, 1)  # kept open, as a process keeps it
    note = partial / ".processes" / "0.json"
    note.chmod(0o400)
    before = note.read_bytes()
    monkeypatch.setattr(fcntl, "flock", lambda *arguments: pytest.fail("a lock was taken"))
    (told,) = run_progress(tmp_path).stages
    assert told.status == "running" and note.read_bytes() == before
    own.done()


@pytest.mark.parametrize(("ago", "status", "over"), [(5, "running", False), (3600, "interrupted", True)])
def test_a_machine_that_tells_nothing_any_more_is_not_waited_for(
    tmp_path: Path, smolrecipe: Run, ago: float, status: str, over: bool
) -> None:
    partial = tmp_path / f"one-{'0' * 12}.partial"
    (partial / ".processes").mkdir(parents=True)
    note = {"rank": 0, "process": 7, "host": "far-away", "boot": "x", "at": time.time() - ago}
    (partial / ".processes" / "0.json").write_text(json.dumps(note))
    (partial / "metrics.jsonl").write_text(json.dumps({"step": 1, "steps": 5, "time": time.time() - ago}) + "\n")
    lock = {"process": 6, "host": "far-away", "since": "then", "command": "smolrecipe run"}
    (tmp_path / "run.lock").write_text(json.dumps(lock))
    found = run_progress(tmp_path)
    assert (found.stages[0].status, found.is_over) == (status, over)
    if over:
        said = smolrecipe("status", tmp_path, "--watch", check=0).stdout
        assert "process 6 on far-away (since then: smolrecipe run), which may be gone" in said


def test_folders_with_names_that_no_stage_has_are_none(tmp_path: Path, smolrecipe: Run) -> None:
    for name in ("one", "\x1b[31mred", "a b", ".hidden"):
        (tmp_path / f"{name}-{'0' * 12}.partial").mkdir()
    assert [stage.stage for stage in run_progress(tmp_path).stages] == ["one"]
    assert "\x1b" not in smolrecipe("status", tmp_path, check=0).stdout


@pytest.mark.parametrize(("make", "said"), [(False, "it is no folder"), (True, "it has no stages in it")])
def test_what_is_no_run_is_refused(tmp_path: Path, smolrecipe: Run, make: bool, said: str) -> None:
    if make:
        (tmp_path / "nothing").mkdir()
    refused = smolrecipe("status", tmp_path / "nothing", check=2)
    assert f"{tmp_path / 'nothing'} is no run: {said}" in refused.stderr
