"""``smolrecipe plan --dry-run``: memory, time, and layouts that cannot be built."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("toy_plugin")
Write = Callable[..., Path]
Run = Callable[..., subprocess.CompletedProcess[str]]
RECIPE = """\
name: toy
launcher: {use: direct}
model: {layers: {use: layers}}
stages:
  one: {use: count, to: 1_000_000, processes: 384, device: cuda}
  two: {use: count, to: 3, from: one}
  model: {use: build}
"""


def test_bytes_tokens_and_days(write_recipe: Write, smolrecipe: Run) -> None:
    arguments = ("plan", write_recipe(RECIPE), "--dry-run", "--mfu", "0.25", "--peak-tflops", "1000", "--json")
    (one, two) = json.loads(smolrecipe(*arguments, check=0).stdout)["dry_run"]
    assert (one["stage"], two["stage"]) == ("one", "two")  # 'model' cannot be built without weights
    assert one["bytes"] == 45 * 2**30
    # 0.25 * 1e15 operations a second at 2e10 a token; 2e12 tokens on 384 devices.
    assert one["tokens_per_second_per_device"] == pytest.approx(12_500)
    assert one["days"] == pytest.approx(2e12 / (12_500 * 384) / 86_400)


def test_the_tables(write_recipe: Write, smolrecipe: Run) -> None:
    text = smolrecipe("plan", write_recipe(RECIPE), "--dry-run", "--set", "stages.one.to=7_000_000", check=0).stdout
    assert "45.0 of 80" in text and "3,000,000,000" in text and "7,000,000" in text
    time = text[text.index("time, if") :].splitlines()
    assert [line.split()[0] for line in time[2:3]] == ["one"] and not any(line.startswith("two") for line in time)
    assert time[-1].endswith("device hours of training, without evaluation and interruptions")
    assert max(map(len, text.splitlines())) <= 120


def test_a_layout_that_does_not_fit_or_cannot_be_built(write_recipe: Write, smolrecipe: Run) -> None:
    recipe = write_recipe(RECIPE)
    refused = smolrecipe("plan", recipe, "--dry-run", "--set", "stages.two.behave=refuse", check=1)
    assert "error: stage 'two': this layout cannot be built" in refused.stderr
    crashed = smolrecipe("plan", recipe, "--dry-run", "--set", "stages.two.behave=crash", check=1)
    assert "the dry run of stage 'two' crashed; its log: " in crashed.stderr
    assert "ZeroDivisionError" in Path(crashed.stderr.strip().rpartition(" ")[2]).read_text()
    small = smolrecipe("plan", recipe, "--dry-run", "--set", "stages.one.seconds=1", check=0)
    assert "stage 'one' needs 145.0 GiB a device and has 80: lower micro_batch" in small.stdout


def test_impossible_speeds_are_refused(write_recipe: Write, smolrecipe: Run) -> None:
    assert "--mfu" in smolrecipe("plan", write_recipe(RECIPE), "--dry-run", "--mfu", "1.2", check=2).stderr
