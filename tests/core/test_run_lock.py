"""One process writes a run: a second is refused by name of the first, and what a killed one left is recognised."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from smolrecipe.errors import RecipeError
from smolrecipe.running import run_lock
from smolrecipe.running.run_lock import LOCK_FILE, LockedError, hold_run

Write = Callable[..., Path]
Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., subprocess.Popen[str]]
TOY = Path(__file__).parents[1] / "toy_plugin"
COUNT = "name: toy\nlauncher: {use: direct}\nstages:\n  one: {use: count, to: 100, seconds: 0.1}\n"

SURVIVOR = """
import ctypes, time
import smolrecipe
from smolrecipe import Artifact, StageKind


def run(options, context):
    ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)  # PR_SET_PDEATHSIG: none
    with (context.folder / "journal.txt").open("a") as journal:
        journal.write("begun ")
        journal.flush()
        (context.folder / "begun.txt").touch()
        time.sleep(3)
        journal.write("ended ")
    return Artifact()


@smolrecipe.hookimpl
def smolrecipe_stages():
    yield StageKind(name="survive", summary="survive", run=run, produces=lambda options: {"number": True})
"""
"""A stage that the kernel does not end when its runner dies."""

HOLDER = """
import os, sys, time
from pathlib import Path
from smolrecipe.running.run_lock import hold_run
with hold_run(Path(sys.argv[1]), "smolrecipe run a.yaml") as lock:
    if len(sys.argv) > 2 and os.fork() == 0:
        time.sleep(float(sys.argv[2]))  # holds what it has inherited
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""
"""Holds a run store until it is killed; a number of seconds is how long a child outlives it."""

CROWD = """
import os, sys
from pathlib import Path
from smolrecipe.running.run_lock import LockedError, hold_run
root, entered = Path(sys.argv[1]), 0
while entered < 60:
    try:
        with hold_run(root, "one of many"):
            os.close(os.open(root / "alone", os.O_CREAT | os.O_EXCL))
            entered += 1
            os.unlink(root / "alone")
    except LockedError:
        pass
"""
"""Enters again and again, and finds out whether somebody else is there."""


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def hold(root: Path, *child: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, root, *child], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


@pytest.mark.usefixtures("toy_plugin")
class TestRuns:
    def test_a_second_run_is_refused_at_once_by_name_of_the_first(
        self,
        write_recipe: Write,
        start_smolrecipe: Start,
        smolrecipe: Run,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("MY_API_TOKEN", "a-token-of-mine")
        recipe = write_recipe(COUNT)
        process = start_smolrecipe(["run", recipe, "--set", "stages.one.label=a-token-of-mine"])
        wait_for(lambda: bool(list(tmp_path.glob("runs/toy/one-*/state.json"))))
        begun = time.monotonic()
        for arguments in (("run", recipe), ("run", recipe, "--sweep", "stages.one.to=3,4")):
            refused = smolrecipe(*arguments, check=1)
            assert re.search(
                rf"error: runs/toy is being written by process {process.pid} on {socket.gethostname()} "
                rf"\(since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\S+: smolrecipe run {recipe} --set "
                rf"'?stages.one.label=\*\*\*MY_API_TOKEN\*\*\*'?\): wait .* \(kill {process.pid}",
                refused.stderr,
            ), refused.stderr
        assert time.monotonic() - begun < run_lock.WAIT_SECONDS
        for reading in (("plan", recipe), ("ls",), ("show", recipe)):
            smolrecipe(*reading, check=0)
        assert process.poll() is None

    def test_what_a_killed_run_leaves_is_said_and_an_ended_run_leaves_nothing(
        self, write_recipe: Write, start_smolrecipe: Start, smolrecipe: Run, tmp_path: Path
    ) -> None:
        recipe = write_recipe(COUNT)
        process = start_smolrecipe(["run", recipe])
        wait_for(lambda: bool(list(tmp_path.glob("runs/toy/one-*/state.json"))))
        process.kill()
        process.wait()
        result = smolrecipe("run", recipe, "--set", "stages.one.seconds=0", check=0)
        assert f"note: the run before was killed: process {process.pid} on {socket.gethostname()} (" in result.stderr
        assert "one: goes on" in result.stderr
        assert not (tmp_path / "runs/toy" / LOCK_FILE).exists()
        assert "note:" not in smolrecipe("run", recipe, "--set", "stages.one.seconds=0", check=0).stderr

    def test_a_run_that_fails_or_is_interrupted_leaves_no_lock(
        self, write_recipe: Write, start_smolrecipe: Start, smolrecipe: Run, tmp_path: Path
    ) -> None:
        recipe = write_recipe(COUNT)
        smolrecipe("run", recipe, "--set", "stages.one.behave=refuse", check=1)
        assert not (tmp_path / "runs/toy" / LOCK_FILE).exists()
        process = start_smolrecipe(["run", recipe])
        wait_for(lambda: bool(list(tmp_path.glob("runs/toy/one-*/state.json"))))
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert not (tmp_path / "runs/toy" / LOCK_FILE).exists()

    def test_a_stage_that_outlives_its_killed_runner_keeps_the_lock_and_its_work_is_not_done_again(
        self,
        write_recipe: Write,
        start_smolrecipe: Start,
        smolrecipe: Run,
        tmp_path: Path,
        plant: Callable[..., Path],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """As where the kernel does not end it with its parent, or takes its time."""
        plant("smolrecipe_planted", {"__init__.py": SURVIVOR}, plugin="planted")
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}{os.pathsep}{TOY}")
        monkeypatch.setenv("SMOLRECIPE_PLUGINS", "toy,planted")
        recipe = write_recipe("name: toy\nlauncher: {use: direct}\nstages:\n  one: {use: survive}\n")
        process = start_smolrecipe(["run", recipe])
        wait_for(lambda: bool(list(tmp_path.glob("runs/toy/one-*/begun.txt"))))
        process.kill()
        process.wait()
        result = smolrecipe("run", recipe, check=0)
        assert "one: had been done when the run before ended, and only has to be published" in result.stderr
        (folder,) = tmp_path.glob("runs/toy/one-*")
        assert (folder / "journal.txt").read_text().split() == ["begun", "ended"]


class TestTheLock:
    def test_who_waits_for_the_child_of_a_dead_holder_gets_the_lock(self, tmp_path: Path) -> None:
        process = hold(tmp_path, "1.5")
        process.kill()
        process.wait()
        begun = time.monotonic()
        with hold_run(tmp_path, "me") as lock:
            assert 0.5 < time.monotonic() - begun < 10
            assert lock.left is not None and lock.left.process == process.pid

    def test_who_waited_long_enough_is_told_that_the_holder_is_gone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(run_lock, "WAIT_SECONDS", 0.5)
        process = hold(tmp_path, "4")
        process.kill()
        process.wait()
        gone = rf"by process {process.pid} .* which is gone, and what it started still"
        with pytest.raises(LockedError, match=gone), hold_run(tmp_path, "me"):
            pass

    def test_many_enter_one_at_a_time(self, tmp_path: Path) -> None:
        crowd = [
            subprocess.Popen([sys.executable, "-c", CROWD, tmp_path], stderr=subprocess.PIPE, text=True)
            for _ in range(6)
        ]
        for process in crowd:
            _, said = process.communicate(timeout=120)
            assert process.returncode == 0, said
        assert not list(tmp_path.iterdir())

    def test_the_holder_of_another_machine_is_not_taken_for_dead(self, tmp_path: Path) -> None:
        with hold_run(tmp_path, "me"):
            path = tmp_path / LOCK_FILE
            content = json.loads(path.read_text())
            path.write_text(json.dumps({**content, "host": "elsewhere", "process": 2**22 + 1}))
            with (
                pytest.raises(LockedError, match=r"on elsewhere .*: wait until it has ended"),
                hold_run(tmp_path, "you"),
            ):
                pass

    def test_a_file_system_that_cannot_lock_is_said_to_be_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(descriptor: int, operation: int) -> None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        monkeypatch.setattr(fcntl, "flock", refuse)
        cannot = r"cannot lock files \(No locks available\).*another with --runs"
        with pytest.raises(RecipeError, match=cannot), hold_run(tmp_path, "me"):
            pass

    def test_a_link_in_its_place_is_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "precious").write_text("kept")
        (tmp_path / LOCK_FILE).symlink_to(tmp_path / "precious")
        with pytest.raises(RecipeError, match="cannot be written"), hold_run(tmp_path, "me"):
            pass
        assert (tmp_path / "precious").read_text() == "kept"
