"""``smolrecipe why``: what differs from what is published, with both values, the place and the root cause."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
Write = Callable[..., Path]
TOY = Path(__file__).parents[1] / "toy_plugin"

RECIPE = """\
name: toy
launcher: {use: direct}
stages:
  one: {use: count, to: 3, layers: {kind: deep}, data: {w: {use: words, file: words.txt}, v: {use: words}}}
  two: {use: count, to: 2, from: one}
  three: {use: count, to: 1, from: two, schedule: {use: ramp, steps: 4}}
  other: {use: count, to: 1}
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the toy plugin's package that a test may change."""
    shutil.copytree(TOY, tmp_path / "site", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setenv("SMOLRECIPE_PLUGINS", "toy")
    return tmp_path / "site" / "smolrecipe_toy"


@pytest.fixture
def recipe(toy: Path, write_recipe: Write, tmp_path: Path) -> Path:
    (tmp_path / "words.txt").write_text("a")
    return write_recipe(RECIPE)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run store of the recipe's run, made once for all tests."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "words.txt").write_text("a")
    (folder / "recipe.yaml").write_text(RECIPE)
    environment = {**os.environ, "PYTHONPATH": str(TOY), "SMOLRECIPE_PLUGINS": "toy"}
    command = [sys.executable, "-m", "smolrecipe", "run", "recipe.yaml"]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return folder / "runs"


@pytest.fixture
def published(recipe: Path, finished: Path) -> Path:
    """The recipe, run in a folder of its own."""
    shutil.copytree(finished, recipe.parent / "runs")
    return recipe


@pytest.fixture
def why(recipe: Path, smolrecipe: Run) -> Callable[..., list[dict[str, Any]]]:
    def why(*arguments: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(smolrecipe("why", recipe, *arguments, "--json", check=0).stdout)
        return found

    return why


def edit(file: Path, *pairs: tuple[str, str]) -> None:
    text = file.read_text()
    for old, new in pairs:
        assert text.count(old) == 1
        text = text.replace(old, new)
    file.write_text(text)


def test_what_is_published_is_told_with_its_time_and_what_has_no_effect(
    published: Path, why: Callable[..., list[dict[str, Any]]], smolrecipe: Run
) -> None:
    edit(published, ("to: 2,", "to: 2, seconds: 1,"))
    found = {told["stage"]: told for told in why()}
    assert list(found) == ["one", "two", "three", "other"]
    for told in found.values():
        record = json.loads((published.parent / told["folder"] / "stage.json").read_text())
        assert told["status"] == "published" and told["since"] == record["started"]
    assert found["two"]["without_effect"] == [
        {"kind": "option", "what": "seconds", "old": 0.0, "new": 1.0, "written": f"{published}:5:28"}
    ]
    text = smolrecipe("why", published, "two", check=0).stdout
    assert "two: published since " in text and f"without effect: seconds: 0 -> 1  {published}:5:28" in text


def test_nothing_published_and_an_unknown_stage(recipe: Path, smolrecipe: Run, why: Callable[..., Any]) -> None:
    (told,) = why("one")
    assert told["status"] == "to run" and told["nearest"] is None and told["because"] == []
    assert "one: would run\n  nothing of it is published in runs/toy\n" in smolrecipe("why", recipe, check=0).stdout
    assert "no stage 'tow'; did you mean 'two'?" in smolrecipe("why", recipe, "tow", check=2).stderr


def test_each_kind_of_difference_is_told_with_both_values(
    published: Path, toy: Path, why: Callable[..., Any], tmp_path: Path
) -> None:
    edit(
        published,
        ("to: 3", "to: 4"),
        ("kind: deep", "kind: wide"),
        ("w: {use: words, file: words.txt}, v: {use: words}", "v: {use: words}, w: {use: words, file: words.txt}"),
        (", schedule: {use: ramp, steps: 4}", ""),
    )
    (tmp_path / "words.txt").write_text("b")
    (toy / "note.txt").write_text("more")
    one, two, three, other = why()
    places = {
        difference["what"]: difference for difference in one["nearest"]["differences"] if "order" not in difference
    }
    assert places["to"] == {"kind": "option", "what": "to", "old": 3, "new": 4, "written": f"{published}:4:21"}
    assert (places["layers.kind"]["old"], places["layers.kind"]["new"]) == ("deep", "wide")
    assert places["layers.kind"]["written"] == f"{published}:4:37"
    data = {"kind": "data", "what": "data.w", "old": "a", "new": "b", "written": f"{published}:4:74"}
    assert places["data.w"] == data
    assert places["toy"]["kind"] == "plugin" and places["toy"]["files"] == ["note.txt"]
    assert places["toy"]["old"] != places["toy"]["new"]
    (order,) = [difference for difference in one["nearest"]["differences"] if "order" in difference]
    assert (order["what"], order["old"], order["new"]) == ("data", ["w", "v"], ["v", "w"])
    (schedule,) = [difference for difference in three["nearest"]["differences"] if difference["what"] == "schedule"]
    assert (schedule["old"], schedule["new"]) == ({"use": "ramp", "steps": 4}, None) and "written" not in schedule
    assert [difference["kind"] for difference in two["nearest"]["differences"]] == ["plugin", "parent"]
    assert [difference["kind"] for difference in other["nearest"]["differences"]] == ["plugin"]


def test_a_parent_is_followed_to_the_root_cause(published: Path, why: Callable[..., Any], smolrecipe: Run) -> None:
    edit(published, ("to: 3", "to: 5"))
    (told,) = why("three")
    assert [difference["what"] for difference in told["nearest"]["differences"]] == ["two"]
    assert [cause["stage"] for cause in told["because"]] == ["two", "one"]
    root = {"kind": "option", "what": "to", "old": 3, "new": 5, "written": f"{published}:4:21"}
    assert told["because"][1]["differences"] == [root]
    text = smolrecipe("why", published, "three", check=0).stdout
    assert f"to: 3 -> 5  {published}:4:21" in text and "made from 'two', which would be another artifact" in text
    shutil.rmtree(published.parent / told["because"][0]["artifact"])
    (told,) = why("three")
    assert told["because"] == [{"stage": "two", "artifact": None, "started": None, "differences": []}]
    gone = smolrecipe("why", published, "three", check=0).stdout
    assert "two: the artifact that it was made from is not in the run store any more" in gone


def test_the_nearest_of_several_artifacts_is_compared_with(
    published: Path, why: Callable[..., Any], smolrecipe: Run
) -> None:
    smolrecipe("run", published, "--set", "stages.other.to=2", "--set", "stages.other.flag=true", check=0)
    edit(published, ("other: {use: count, to: 1", "other: {use: count, to: 7, flag: true"))
    (told,) = why("other")
    assert [(difference["what"], difference["old"]) for difference in told["nearest"]["differences"]] == [("to", 2)]
    smolrecipe("run", published, "--set", "stages.other.to=3", check=0)
    assert why("other")[0]["nearest"]["differences"][0]["old"] == 3, "the newest where several are as near"


def test_a_renamed_stage_is_told(published: Path, why: Callable[..., Any]) -> None:
    edit(published, ("other:", "another:"))
    (told,) = why("another")
    assert told["nearest"]["differences"] == [{"kind": "name", "what": "another", "old": "other", "new": "another"}]


def test_half_done_work_is_told_with_its_step(
    recipe: Path, start_smolrecipe: Callable[..., Any], why: Callable[..., Any], smolrecipe: Run
) -> None:
    slow = ("--set", "stages.one.seconds=0.2", "--set", "stages.one.to=50")
    process = start_smolrecipe(["run", recipe, *slow])
    deadline = time.monotonic() + 60
    while why("one", *slow)[0]["step"] is None and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (told,) = why("one", *slow)
    assert told["status"] == "half done" and told["step"] >= 1 and told["folder"].endswith(".partial")
    assert "one: would go on (it had reached step" in smolrecipe("why", recipe, "one", *slow, check=0).stdout
    (other,) = why("one")
    assert other["status"] == "to run" and other["abandoned"] == [told["folder"]]


def test_the_variants_of_a_sweep_are_told_apart(published: Path, why: Callable[..., Any]) -> None:
    found = why("--sweep", "stages.two.to=2,9")
    status = {told["label"]: told["status"] for told in found}
    assert status["two to=2"] == "published" and status["two to=9"] == "to run" and status["one"] == "published"


@pytest.mark.parametrize("damage", ["no data", "no JSON", "other types"])
def test_records_of_older_runs_and_damaged_ones_are_tolerated(
    published: Path, why: Callable[..., Any], tmp_path: Path, damage: str
) -> None:
    (folder,) = (tmp_path / "runs" / "toy").glob("one-*")
    record = json.loads((folder / "stage.json").read_text())
    if damage == "no data":
        for key in ("data", "provenance", "packages", "attempts"):
            del record[key]
        record["options"]["data"]["w"]["file"] = str(tmp_path / "words.txt")
        text = json.dumps(record)
    else:
        text = "[" if damage == "no JSON" else json.dumps({**record, "data": 3, "provenance": {}, "parents": "x"})
    (folder / "stage.json").write_text(text)
    (tmp_path / "words.txt").write_text("b")
    (told,) = why("one")
    assert told["status"] == "to run"
    if damage == "no data":
        (unknown,) = told["nearest"]["differences"]
        assert unknown["kind"] == "unknown" and "data of an older run" in unknown["what"]
    else:
        assert told["nearest"] is None
