"""Trackers in a run: what they leave is published with the stage, under its checksums, also of one that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

Write = Callable[..., Path]
Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., subprocess.Popen[str]]

RECIPE = """\
name: toy
launcher: {use: direct}
trackers: [{use: tensorboard}, {use: wandb, mode: offline}]
stages:
  one: {use: count, to: 60, seconds: 0.05}
  two: {use: count, from: one, to: 3}
"""


@pytest.fixture
def recipe(toy_plugin: None, write_recipe: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SMOLRECIPE_PLUGINS", "toy,tensorboard,wandb")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return write_recipe(RECIPE)


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
    for stage, attempts in (("one", 2), ("two", 1)):
        (artifact,) = (tmp_path / "runs" / "toy").glob(f"{stage}-*")
        assert len([*artifact.rglob("*.wandb")]) == len([*artifact.rglob("events.out.tfevents.*")]) == attempts
    verified = smolrecipe("verify", "runs/toy", check=0).stdout
    assert "FAILS" not in verified
