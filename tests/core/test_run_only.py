"""``run --only``: one stage by itself, beside others that other processes run, with what is common never torn."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import asdict

from smolrecipe.running import redact
from smolrecipe.running.held_file import is_held
from smolrecipe.running.run_lock import LOCK_FILE, Holder, LockedError, hold_run, hold_stage

Write = Callable[..., Path]
Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., subprocess.Popen[str]]

FORK = """\
name: toy
launcher: {use: direct}
stages:
  one: {use: count, to: 2}
  left: {use: count, to: 40, seconds: 0.05, from: one}
  right: {use: count, to: 41, seconds: 0.05, from: one}
  both: {use: count, to: 1, from: left}
"""


@pytest.fixture
def recipe(toy_plugin: None, write_recipe: Write) -> Path:
    return write_recipe(FORK)


def started(process: subprocess.Popen[str], stage: str) -> None:
    assert process.stderr is not None
    assert process.stderr.readline() == f"{stage}: starts\n"


class TestOne:
    def test_one_stage_is_run_and_no_other(self, recipe: Path, smolrecipe: Run, tmp_path: Path) -> None:
        done = smolrecipe("run", recipe, "--only", "one")
        assert done.returncode == 0, done.stderr
        (artifact,) = (tmp_path / "runs/toy").glob("*-*")
        assert done.stdout.splitlines()[-1] == f"stage 'one' is published: {artifact.relative_to(tmp_path)}"
        assert sorted(path.name for path in (tmp_path / "runs/toy").iterdir()) == [
            "measures.json", artifact.name, "provenance",
        ]  # fmt: skip
        again = smolrecipe("run", recipe, "--only", "one")
        assert (again.returncode, again.stderr) == (0, "one: published already\n")

    def test_it_is_the_stage_of_the_whole_run(self, recipe: Path, smolrecipe: Run, tmp_path: Path) -> None:
        for stage in ("one", "right", "left", "both"):
            assert smolrecipe("run", recipe, "--only", stage).returncode == 0
        measures = (tmp_path / "runs/toy/measures.json").read_bytes()
        assert [entry["stage"] for entry in json.loads(measures)] == ["one", "left", "right", "both"]
        whole = smolrecipe("run", recipe)
        assert whole.returncode == 0 and "4 stages, 0 run now" in whole.stdout
        assert (tmp_path / "runs/toy/measures.json").read_bytes() == measures

    def test_what_it_uses_has_to_be_there(self, recipe: Path, smolrecipe: Run, tmp_path: Path) -> None:
        done = smolrecipe("run", recipe, "--only", "both")
        assert done.returncode == 2
        assert done.stderr == (
            "error: stage 'both' uses 'left', which runs/toy does not have as this recipe makes it: run that first, "
            "with --only or without\n"
        )
        assert not (tmp_path / "runs").exists()

    def test_a_stage_that_there_is_not(self, recipe: Path, smolrecipe: Run) -> None:
        done = smolrecipe("run", recipe, "--only", "rigt")
        assert done.returncode == 2
        assert done.stderr == "error: recipe 'toy' has no stage 'rigt' for --only; did you mean 'right'?\n"

    def test_variants_are_refused(self, recipe: Path, smolrecipe: Run) -> None:
        done = smolrecipe("run", recipe, "--only", "one", "--sweep", "stages.one.to=1,2")
        assert done.returncode == 2 and "--only" in done.stderr

    def test_it_stops_and_goes_on(self, recipe: Path, smolrecipe: Run, start_smolrecipe: Start) -> None:
        smolrecipe("run", recipe, "--only", "one")
        process = start_smolrecipe(["run", recipe, "--only", "left"])
        started(process, "left")
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=30)
        assert process.returncode == 143
        assert told.endswith(f"to go on: smolrecipe run {recipe} --only left\n")
        again = smolrecipe("run", recipe, "--only", "left")
        assert (again.returncode, again.stderr.splitlines()[0]) == (0, "left: goes on")


class TestSeveral:
    def test_two_stages_run_at_once(
        self, recipe: Path, smolrecipe: Run, start_smolrecipe: Start, tmp_path: Path
    ) -> None:
        smolrecipe("run", recipe, "--only", "one")
        processes = [start_smolrecipe(["run", recipe, "--only", stage]) for stage in ("left", "right")]
        for process, stage in zip(processes, ("left", "right"), strict=True):
            started(process, stage)
        assert [process.poll() for process in processes] == [None, None]
        whole = smolrecipe("run", recipe)
        assert whole.returncode == 1
        assert f"runs/toy is being written by process {processes[0].pid}" in whole.stderr
        assert f"smolrecipe run {recipe} --only left" in whole.stderr
        same = smolrecipe("run", recipe, "--only", "right")
        assert same.returncode == 1 and f"is being written by process {processes[1].pid}" in same.stderr
        for process in processes:
            assert process.communicate(timeout=60) and process.returncode == 0
        told = json.loads((tmp_path / "runs/toy/measures.json").read_text())
        assert [entry["stage"] for entry in told] == ["one", "left", "right"]
        assert not [*(tmp_path / "runs/toy").glob("*.lock")]

    def test_a_whole_run_keeps_single_stages_off(self, tmp_path: Path) -> None:
        with (
            hold_run(tmp_path, "all of it"),
            pytest.raises(LockedError, match="all of it"),
            hold_stage(tmp_path, "a-123", "a"),
        ):
            pytest.fail("both hold it")

    def test_the_last_of_several_deletes_the_lock(self, tmp_path: Path) -> None:
        with hold_stage(tmp_path, "a-123", "a"):
            with hold_stage(tmp_path, "b-123", "b"):
                pass
            # Were it deleted by the first that ends, a whole run would make a new one and hold that.
            with pytest.raises(LockedError, match=r"is being written by process .*: a\)"), hold_run(tmp_path, "all"):
                pytest.fail("both hold it")
        assert not [*tmp_path.iterdir()]

    def test_a_killed_one_is_told_of(
        self, recipe: Path, smolrecipe: Run, start_smolrecipe: Start, tmp_path: Path
    ) -> None:
        smolrecipe("run", recipe, "--only", "one")
        process = start_smolrecipe(["run", recipe, "--only", "left"])
        started(process, "left")
        process.kill()
        process.wait()
        again = smolrecipe("run", recipe, "--only", "left")
        assert again.returncode == 0
        assert f"note: the run before was killed: process {process.pid}" in again.stderr.splitlines()[0]
        assert not (tmp_path / "runs/toy" / LOCK_FILE).exists()


MIXED_CROWD = """
import os, sys
from pathlib import Path
from smolrecipe.running.run_lock import LockedError, hold_common, hold_run, hold_stage
root, stage, entered = Path(sys.argv[1]), sys.argv[2], 0
while entered < 40:
    try:
        if stage == "all":
            with hold_run(root, "all"):
                os.close(os.open(root / "alone", os.O_CREAT | os.O_EXCL))
                os.unlink(root / "alone")
        else:
            with hold_stage(root, stage, stage):
                assert not (root / "alone").exists(), "a whole run is at work"
                with hold_common(root):
                    count = int((root / "count").read_text())
                    (root / "count").write_text(str(count + 1))
                    assert (root / "count").read_text() == str(count + 1), "somebody else writes it"
        entered += 1
    except LockedError:
        pass
"""
"""Enters again and again, alone or beside others, and finds out whether somebody is there who must not be."""


def test_a_crowd_of_both_kinds(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    stages = ("all", "all", "a-1", "b-2", "c-3")
    crowd = [subprocess.Popen([sys.executable, "-c", MIXED_CROWD, tmp_path, stage]) for stage in stages]
    try:
        assert [process.wait(timeout=100) for process in crowd] == [0] * len(stages)
    finally:
        for process in crowd:
            process.kill()
            process.wait()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"count": "120"}


def test_a_lock_that_a_lost_machine_held_is_waited_for(tmp_path: Path) -> None:
    """A file server frees it after its lease, and the job that was requeued meanwhile must not fail."""
    path = tmp_path / "a-1.lock"
    gone = Holder(process=1, host="another", since="before", command="smolrecipe run")
    path.write_text(json.dumps(asdict(gone)))
    lease = subprocess.Popen(["flock", path, "sleep", "2"])
    try:
        while not is_held(path):
            time.sleep(0.05)
        with hold_stage(tmp_path, "a-1", "again") as lock:
            assert lock.left == gone
        assert lease.poll() is not None
    finally:
        lease.kill()
        lease.wait()


def test_a_scheduler_s_signal_does_not_end_what_writes_the_log(tmp_path: Path) -> None:
    """Slurm sends SIGTERM to every process of a job: a stage that saves would lose the other end of its output."""
    writer = subprocess.Popen([sys.executable, "-I", "-S", redact.__file__, tmp_path / "log"], stdin=subprocess.PIPE)
    assert writer.stdin is not None
    writer.stdin.write(b"before\n")
    writer.stdin.flush()
    while not (tmp_path / "log").exists() or not (tmp_path / "log").read_bytes():
        time.sleep(0.05)
    writer.send_signal(signal.SIGTERM)
    writer.communicate(b"saved\n", timeout=30)
    assert (tmp_path / "log").read_bytes() == b"before\nsaved\n"
