"""Runs of the toy plugin in real processes: skipping, resuming, refusing, crashing, Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("toy_plugin")
HEAD = "name: toy\nlauncher: {use: direct}\n"
Write = Callable[..., Path]
Run = Callable[..., subprocess.CompletedProcess[str]]


def folders(tmp_path: Path) -> set[str]:
    return {path.name.rsplit("-", 1)[0] for path in (tmp_path / "runs" / "toy").glob("*/")}


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_a_run_publishes_whole_artifacts_and_a_second_run_skips_them(
    write_recipe: Write, smolrecipe: Run, tmp_path: Path
) -> None:
    recipe = write_recipe(HEAD + "stages:\n  one: {use: count, to: 3}\n  two: {use: count, to: 2, from: one}\n")
    first = json.loads(smolrecipe("run", recipe, "--json", check=0).stdout)
    assert [stage["ran"] for stage in first["stages"]] == [True, True]
    folder = Path(tmp_path / first["stages"][1]["folder"])
    assert json.loads((folder / "number.json").read_text()) == 5
    record = json.loads((folder / "stage.json").read_text())
    assert record["options"]["from"] == "one" and record["plugins"]["toy"]["version"] == "1.0"
    assert record["parents"] == {
        "one": json.loads((tmp_path / first["stages"][0]["folder"] / "stage.json").read_text())["digest"]
    }
    manifest = json.loads((folder / "manifest.json").read_text())
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert (
        files
        == {*manifest, "manifest.json"}
        == {"number.json", "stage.json", "metrics.jsonl", "log.txt", "manifest.json"}
    )
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    second = json.loads(smolrecipe("run", recipe, "--json", check=0).stdout)
    assert [stage["ran"] for stage in second["stages"]] == [False, False]
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert second["measures"] == first["measures"]
    assert json.loads((tmp_path / "runs/toy/measures.json").read_text())[1] == {
        "stage": "two", "name": "number", "after": 5, "before": 3, "better": "higher", "unit": "", "samples": None,
    }  # fmt: skip


def test_only_what_changed_runs_again(write_recipe: Write, smolrecipe: Run) -> None:
    recipe = write_recipe(HEAD + "stages:\n  one: {use: count, to: 3}\n  two: {use: count, to: 2, from: one}\n")
    smolrecipe("run", recipe, check=0)
    again = json.loads(smolrecipe("run", recipe, "--json", "--set", "stages.two.to=4", check=0).stdout)
    assert [stage["ran"] for stage in again["stages"]] == [False, True]


def test_a_refusing_stage_says_its_sentence_and_keeps_what_was_published(
    write_recipe: Write, smolrecipe: Run, tmp_path: Path
) -> None:
    recipe = write_recipe(
        HEAD + "stages:\n  one: {use: count, to: 3}\n  two: {use: count, to: 1, from: one, behave: refuse}\n"
    )
    result = smolrecipe("run", recipe, check=1)
    assert "error: stage 'two': this stage refuses: set behave to 'well'" in result.stderr
    assert any(path.name.startswith("one-") for path in (tmp_path / "runs/toy").iterdir())


def test_a_crash_points_at_the_log_without_a_traceback(write_recipe: Write, smolrecipe: Run, tmp_path: Path) -> None:
    recipe = write_recipe(HEAD + "stages:\n  one: {use: count, to: 1, behave: crash}\n")
    result = smolrecipe("run", recipe, check=1)
    assert "stage 'one' crashed with ZeroDivisionError: a bug\n  last good step: none, no ch" in result.stderr
    log = tmp_path / result.stderr.split("its log: ")[1].splitlines()[0]
    assert "Traceback" in log.read_text()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_is_resumed_where_it_stopped(
    write_recipe: Write,
    smolrecipe: Run,
    start_smolrecipe: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
    number: int,
    code: int,
) -> None:
    recipe = write_recipe(HEAD + "stages:\n  one: {use: count, to: 8, seconds: 0.4}\n")
    process = start_smolrecipe(["run", recipe])
    wait_for(lambda: any('"step": 3' in path.read_text() for path in tmp_path.glob("runs/toy/one-*/metrics.jsonl")))
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == code
    assert "interrupted in stage 'one', which has saved no checkpoint yet" in errors and "Traceback" not in errors
    assert f"to go on: smolrecipe run {recipe}" in errors
    result = smolrecipe("run", recipe, "--set", "stages.one.seconds=0", check=0)
    assert "one: goes on\n" in result.stderr
    (metrics,) = tmp_path.glob("runs/toy/one-*/metrics.jsonl")
    steps = [event["step"] for event in map(json.loads, metrics.read_text().splitlines()) if "step" in event]
    assert steps == [1, 2, 3, 4, 5, 6, 7, 8]


def test_kill_9_of_the_runner_takes_the_stage_with_it(
    write_recipe: Write, start_smolrecipe: Callable[..., subprocess.Popen[str]], smolrecipe: Run, tmp_path: Path
) -> None:
    recipe = write_recipe(HEAD + "stages:\n  one: {use: count, to: 100, seconds: 0.1}\n")
    process = start_smolrecipe(["run", recipe])
    wait_for(lambda: bool(list(tmp_path.glob("runs/toy/one-*/state.json"))))
    process.kill()
    process.wait()
    (state,) = tmp_path.glob("runs/toy/one-*/state.json")
    time.sleep(0.5)
    reached = state.read_text()
    time.sleep(0.5)
    assert state.read_text() == reached
    smolrecipe("run", recipe, "--set", "stages.one.seconds=0", check=0)


def test_trackers_get_every_event(write_recipe: Write, smolrecipe: Run, tmp_path: Path) -> None:
    recipe = write_recipe(HEAD + "trackers: [{use: file}]\nstages:\n  one: {use: count, to: 2}\n")
    smolrecipe("run", recipe, check=0)
    (tracked,) = tmp_path.glob("runs/toy/one-*/tracked.txt")
    assert tracked.read_text().splitlines() == ["['loss', 'memory_gib', 'step', 'steps']"] * 2 + ["['message']"]


def test_an_unwritable_run_store_is_refused_before_anything_runs(write_recipe: Write, smolrecipe: Run) -> None:
    recipe = write_recipe(HEAD + "stages:\n  one: {use: count, to: 2}\n")
    result = smolrecipe("run", recipe, "--runs", "/proc/runs", check=2)
    assert "the run store /proc/runs/toy cannot be written" in result.stderr and "--runs" in result.stderr
