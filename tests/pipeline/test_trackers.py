"""Trackers in a run: what they leave is published with the stage, under its checksums, also of one that was killed."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

Write = Callable[..., Path]
Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., subprocess.Popen[str]]

RECIPE = """\
name: toy
launcher: {use: direct}
trackers: [{use: tensorboard}, {use: wandb, mode: offline}, {use: trackio}]
stages:
  one: {use: count, to: 60, seconds: 0.05}
  two: {use: count, from: one, to: 3}
"""


@pytest.fixture
def recipe(toy_plugin: None, write_recipe: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SMOLRECIPE_PLUGINS", "toy,tensorboard,trackio,wandb")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return write_recipe(RECIPE)


def steps_in(database: Path) -> list[int]:
    """The steps in a database of trackio's, which is not written to for that."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro&immutable=1", uri=True)) as connection:
        return [step for (step,) in connection.execute("SELECT step FROM metrics ORDER BY id")]


def test_what_trackers_leave_is_published_and_whole(
    recipe: Path, start_smolrecipe: Start, smolrecipe: Run, tmp_path: Path
) -> None:
    killed = start_smolrecipe(["run", recipe])
    end = time.monotonic() + 120
    while not any('"step": 5,' in path.read_text() for path in tmp_path.glob("runs/toy/one-*/metrics.jsonl")):
        assert time.monotonic() < end and killed.poll() is None
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    smolrecipe("run", recipe, check=0)
    # The toy keeps its state before it tells of a step, which engines do not: a kill between the two loses that one.
    for stage, attempts in (("one", 2), ("two", 1)):
        (artifact,) = (tmp_path / "runs" / "toy").glob(f"{stage}-*")
        assert len([*artifact.rglob("*.wandb")]) == len([*artifact.rglob("events.out.tfevents.*")]) == attempts
        assert [path.name for path in sorted(artifact.glob("trackio/*"))] == ["toy.db", "toy.lock"]
        found, every = steps_in(artifact / "trackio/toy.db"), range(1, 61 if stage == "one" else 4)
        assert found == sorted(set(found)) and len(set(every) - set(found)) < attempts
    verified = smolrecipe("verify", "runs/toy", check=0).stdout
    assert "FAILS" not in verified
