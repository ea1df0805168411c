"""``smolrecipe lock`` and ``run --locked``: what was written down holds, or is refused by name before anything runs."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from smolrecipe.comparing.drift import drift
from smolrecipe.comparing.sides import side_of_plan
from smolrecipe.errors import RecipeError
from smolrecipe.planning.make import make_plan
from smolrecipe.planning.plan import Plan
from smolrecipe.provenance.document import document
from smolrecipe.provenance.lock_file import read_lock, structure_lock
from smolrecipe.recipe.compose import compose
from smolrecipe.recipe.structure import structure
from smolrecipe_registry.discovery import Registry, load_registry

Run = Callable[..., subprocess.CompletedProcess[str]]
Write = Callable[..., Path]
TOY = Path(__file__).parents[1] / "toy_plugin"

RECIPE = """\
name: toy
launcher: {use: direct}
stages:
  one: {use: count, to: 3, data: {w: {use: words, file: words.txt}}}
  two: {use: count, to: 2, from: one}
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a copy of the toy plugin is installed that a test may change."""
    shutil.copytree(TOY, tmp_path / "site", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setenv("SMOLRECIPE_PLUGINS", "toy")
    return tmp_path / "site"


@pytest.fixture
def recipe(site: Path, write_recipe: Write, tmp_path: Path) -> Path:
    (tmp_path / "words.txt").write_text("a")
    return write_recipe(RECIPE, "mine.yaml")


@pytest.fixture
def locked(recipe: Path, smolrecipe: Run) -> Path:
    """The lock file of the recipe."""
    smolrecipe("lock", recipe, check=0)
    return recipe.with_name("mine.lock.json")


@pytest.fixture
def refused(recipe: Path, smolrecipe: Run, tmp_path: Path) -> Callable[..., list[str]]:
    """The lines with which a locked run is refused; nothing has run then."""

    def refused(*arguments: str) -> list[str]:
        said = smolrecipe("run", recipe, "--locked", *arguments, check=2).stderr
        assert "Traceback" not in said and not (tmp_path / "runs").exists()
        return [line for line in said.splitlines() if not line.endswith(" problems")]

    return refused


@frozen
class Planned:
    """The toy recipe in this process: its plan, and the content of its lock file."""

    registry: Registry
    plan: Plan
    content: dict[str, Any]


@pytest.fixture
def planned(toy_plugin: None, write_recipe: Write, tmp_path: Path) -> Planned:
    (tmp_path / "words.txt").write_text("a")
    file, registry = write_recipe(RECIPE), load_registry(("toy",))
    plan = make_plan(structure(compose(file), file, registry.catalog), registry.catalog, registry.manager.hook)
    return Planned(registry, plan, document(plan, registry.catalog))


def rewrite(lock: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(lock.read_text())
    change(content)
    lock.write_text(json.dumps(content))


def test_a_lock_holds_what_it_takes_and_is_the_same_every_time(
    recipe: Path, locked: Path, smolrecipe: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = locked.read_text()
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    out = smolrecipe("lock", recipe, check=0).stdout
    assert locked.read_text() == text and out.startswith(f"{locked}: 2 stages, 1 plugin, ")
    content = json.loads(text)
    assert list(content["stages"]) == ["one", "two"]
    one = content["stages"]["one"]
    assert one["options"]["data"]["w"]["file"] == "words.txt", "paths start at the recipe, so that both may move"
    assert one["data"] == {"data.w": "a"} and content["stages"]["two"]["parents"] == {"one": one["digest"]}
    assert content["plugins"]["toy"]["version"] == "1.0" and "__init__.py" in content["plugins"]["toy"]["files"]
    assert {"smolrecipe", "smolrecipe-toy", "attrs", "pyyaml"} <= set(content["packages"])
    assert "pytest" not in content["packages"], "what happens to be installed is none of it"
    assert content["python"].startswith("CPython 3.") and content["hardware"]["cores"] >= 1
    assert str(tmp_path) not in text
    smolrecipe("lock", recipe, "-o", tmp_path / "deep" / "other.json", check=0)
    assert (tmp_path / "deep" / "other.json").read_text() == text


def test_a_locked_run_runs_where_nothing_differs(recipe: Path, locked: Path, smolrecipe: Run, tmp_path: Path) -> None:
    assert "2 run now" in smolrecipe("run", recipe, "--locked", check=0).stdout
    (tmp_path / "there").mkdir()
    for file in (recipe, locked, tmp_path / "words.txt"):
        file.rename(tmp_path / "there" / file.name)
    moved = tmp_path / "there" / recipe.name
    assert "0 run now" in smolrecipe("run", moved, "--locked", check=0).stdout


def test_every_drift_is_named_at_once_with_what_to_do(
    recipe: Path, locked: Path, refused: Callable[..., list[str]], site: Path, tmp_path: Path
) -> None:
    recipe.write_text(recipe.read_text().replace("to: 2", "to: 5").replace("from: one", "from: one, seconds: 1"))
    (tmp_path / "words.txt").write_text("b")
    (site / "smolrecipe_toy" / "more.txt").write_text("more")

    def older(lock: dict[str, Any]) -> None:
        lock["packages"].update(attrs="1.0", gone="2.0")
        del lock["packages"]["click"]
        lock["python"] = "CPython 3.9.1"
        lock["hardware"]["cpu"] = "another"
        lock["git"] = {"commit": "abc"}
        lock["smolrecipe"]["source"] = "0" * 64

    rewrite(locked, older)
    lines = refused()
    notes = [line for line in lines if line.startswith("note: not as locked, and no reason to stop: ")]
    problems = [line for line in lines if line not in notes]
    for note in (
        "stages.two.seconds is not what was locked (0 -> 1)",
        "hardware cpu: another -> ",
        "git commit: abc -> ",
    ):
        assert any(note in line for line in notes), note
    expected = [
        f"{recipe}:5:21: stages.two.to is not what was locked (2 -> 5): set it back, or lock again",
        f"{recipe}:4:35: the data behind stages.one.data.w is not what was locked (a -> b): bring it back, or",
        "the source of plugin 'toy' is not what was locked (",
        ": more.txt): bring it back, or lock again",
        "the source of smolrecipe itself is not what was locked (000000000000 -> ",
        "and locked at 1.0: pip install 'attrs==1.0', or lock again",
        "package 'gone' is not here, and locked at 2.0: pip install 'gone==2.0', or lock again",
        "is required here and not in the lock file: lock again",
        "and locked is CPython 3.9.1: run with that Python, or lock again",
    ]
    for text in expected:
        assert sum(text in line for line in problems) == 1, text
    assert len(problems) == len(expected) - 1, "and nothing else"


def test_a_plugins_version_is_told_with_its_package(
    locked: Path, refused: Callable[..., list[str]], site: Path
) -> None:
    info = site / "smolrecipe_toy-1.0.dist-info"
    (info / "METADATA").write_text((info / "METADATA").read_text().replace("Version: 1.0", "Version: 2.0"))
    assert refused() == [
        "error: package 'smolrecipe-toy' is 2.0, and locked at 1.0: pip install 'smolrecipe-toy==1.0', or lock again"
    ]


def test_stages_that_come_and_go_are_named(recipe: Path, locked: Path, refused: Callable[..., list[str]]) -> None:
    recipe.write_text(RECIPE.replace("  two:", "  new:"))
    assert refused() == [
        "error: stage 'two' is locked and not in the recipe: put it back, or lock again",
        f"{recipe}:5:3: stage 'new' is not in the lock file: take it out, or lock again",
    ]


def test_a_component_that_is_exchanged_is_told_where(
    recipe: Path, locked: Path, refused: Callable[..., list[str]]
) -> None:
    (line,) = refused("--set", "stages.two.schedule={use: ramp}", "--set", "stages.two.seconds=0")
    assert "stages.two.schedule is not what was locked (nothing -> ramp(steps=1)): set it back" in line


HOOK = """
import smolrecipe


@smolrecipe.hookimpl
def smolrecipe_before_stage(run):
    pass
"""


def test_a_plugin_that_acts_on_every_stage_is_part_of_it(
    locked: Path, recipe: Path, smolrecipe: Run, refused: Callable[..., list[str]], site: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (site / "acting.py").write_text(HOOK)
    (site / "acting-1.0.dist-info").mkdir()
    (site / "acting-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: acting\nVersion: 1.0\n")
    (site / "acting-1.0.dist-info" / "entry_points.txt").write_text("[smolrecipe]\nacting = acting\n")
    assert smolrecipe("run", recipe, "--locked", "--runs", "elsewhere", check=0)
    monkeypatch.setenv("SMOLRECIPE_PLUGINS", "toy,acting")
    assert refused() == [
        "error: plugin 'acting' takes part and is not in the lock file: leave it out with --plugins, or lock again"
    ]
    smolrecipe("lock", recipe, check=0)
    (site / "acting.py").write_text(HOOK + "# changed\n")
    (line,) = refused()
    assert "the source of plugin 'acting' is not what was locked" in line and "acting.py" in line
    monkeypatch.setenv("SMOLRECIPE_PLUGINS", "toy")
    assert refused() == [
        "error: plugin 'acting' is locked and takes no part here: pip install 'acting==1.0', or lock again"
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is no JSON"),
        ("{", "is no JSON"),
        ('"lock"', "holds no mapping"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"lock": 1, "lock": 1}', "the key lock is there twice"),
        ('{"lock": 99}', "'lock' is not 1"),
        ('{"lock": 1}', "lacks the required key 'recipe'"),
        ("\ud800".encode("utf-8", "surrogatepass"), "is not UTF-8 text"),
        ({"packages": []}, "'packages' must be a mapping, not a list"),
        ({"packages": {"torch": 2}}, "'torch' must be text, not the number 2"),
        ({"stages": {"one": {}}}, "lacks the required key 'digest'"),
        ({"python": None}, "'python' must be text, not nothing (null)"),
        ({"surprise": 1}, "unknown key 'surprise' in the lock file"),
        ({"git": 7}, "'git' must be a mapping, not the number 7"),
    ],
)
def test_a_hostile_lock_file_is_refused_in_a_sentence(
    planned: Planned, tmp_path: Path, content: Any, reason: str
) -> None:
    lock = tmp_path / "hostile.lock.json"
    if isinstance(content, dict):
        lock.write_text(json.dumps({**planned.content, **content}))
    else:
        lock.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(RecipeError) as caught:
        read_lock(lock, planned.registry.catalog)
    lines = [str(problem) for problem in caught.value.problems]
    assert all(str(lock) in line for line in lines) and any(reason in line for line in lines), lines


def test_a_hostile_lock_file_ends_the_command_without_a_traceback(
    locked: Path, refused: Callable[..., list[str]]
) -> None:
    rewrite(locked, lambda lock: lock.update(packages=[], surprise=1))
    assert refused() == [
        f"error: {locked}: 'packages' must be a mapping, not a list",
        f"error: {locked}: unknown key 'surprise' in the lock file; known: lock, recipe, stages, around, smolrecipe, "
        "plugins, packages, python, git, hardware",
    ]


@pytest.mark.parametrize("options", [{}, {"use": 3}, {"use": "not-there"}, {"use": "count", "to": {"deep": [1]}}])
def test_locked_options_may_be_anything(planned: Planned, options: dict[str, Any]) -> None:
    catalog = planned.registry.catalog
    content = json.loads(json.dumps(planned.content))
    content["stages"]["two"].update(options=options, digest="0" * 64)
    now = structure_lock(planned.content, catalog, "now")
    side = side_of_plan(planned.plan, "toy", catalog)
    assert not drift(now, now, side, catalog).problems
    try:
        found = drift(structure_lock(content, catalog, "lock"), now, side, catalog).problems
    except RecipeError as error:
        found = error.problems
    assert found


def test_without_a_lock_file_and_in_the_wrong_place(
    recipe: Path, smolrecipe: Run, refused: Callable[..., list[str]], tmp_path: Path
) -> None:
    (line,) = refused()
    assert f"there is no lock file {recipe.with_name('mine.lock.json')}: 'smolrecipe lock' writes one" in line
    (line,) = refused("--lock", str(tmp_path / "none.json"))
    assert f"there is no lock file {tmp_path}/none.json" in line
    assert "--lock names the file for --locked: give both" in smolrecipe("run", recipe, "--lock", "x", check=2).stderr
    said = smolrecipe("lock", recipe, "-o", recipe, check=2).stderr
    assert f"{recipe} exists and is no lock file" in said and recipe.read_text() == RECIPE
    (tmp_path / "file").write_text("")
    said = smolrecipe("lock", recipe, "-o", tmp_path / "file" / "x.json", check=2).stderr
    assert "cannot be written" in said and "Traceback" not in said


def test_a_sweep_is_not_locked(recipe: Path, smolrecipe: Run, locked: Path) -> None:
    recipe.write_text(RECIPE + "sweep:\n  stages.two.to: [1, 2]\n")
    for command in (("lock", recipe), ("run", recipe, "--locked")):
        assert "takes one recipe, and this is a sweep" in smolrecipe(*command, check=2).stderr


def test_a_recipe_that_ships_is_locked_where_the_command_is_given(
    smolrecipe: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SMOLRECIPE_PLUGINS", raising=False)
    assert "smollm3-tiny.lock.json: 14 stages" in smolrecipe("lock", "smollm3-tiny", check=0).stdout
    content = json.loads((tmp_path / "smollm3-tiny.lock.json").read_text())
    assert {"torch", "trl", "torchtitan"} <= set(content["packages"]) and "ruff" not in content["packages"]
