"""The hooks, each through its real call: order around a stage, commands, finding recipes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Write = Callable[..., Path]
Run = Callable[..., subprocess.CompletedProcess[str]]

PLUGIN = '''
import pathlib
import click
import smolrecipe
from smolrecipe import *

LOG = pathlib.Path(__file__).parent / "calls.txt"

def note(text):
    with LOG.open("a") as file:
        file.write(text + "\\n")

@smolrecipe.hookimpl
def smolrecipe_optimizers():
    note("optimizers")
    return [Optimizer(name="none", summary="none", factory=lambda o: None, groups=lambda o: [])]

@smolrecipe.hookimpl
def smolrecipe_packers():
    note("packers")
    return [Packer(name="none", summary="none", open=lambda *a: None)]

@smolrecipe.hookimpl
def smolrecipe_generators():
    note("generators")
    return [Generator(name="none", summary="none", open=lambda *a: None, model=lambda o: "none")]

@smolrecipe.hookimpl
def smolrecipe_filters():
    note("filters")
    return [RowFilter(name="none", summary="none", open=lambda *a: None)]

@smolrecipe.hookimpl
def smolrecipe_check_plan(plan):
    note("check_plan " + " ".join(stage.name for stage in plan.stages))
    return []

@smolrecipe.hookimpl
def smolrecipe_before_stage(run):
    note(f"before {run.stage}")

@smolrecipe.hookimpl
def smolrecipe_after_stage(run, artifact):
    note(f"after {run.stage} {artifact.summary}")

@smolrecipe.hookimpl
def smolrecipe_find_recipe(reference):
    if reference.startswith("team:"):
        return LOG.parent / reference.removeprefix("team:")

@smolrecipe.hookimpl
def smolrecipe_commands(cli):
    @cli.command()
    def hello():
        """Say hello."""
        click.echo("hello from a plugin")
'''


@pytest.fixture
def calls(toy_plugin: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install a plugin that notes its calls beside the toy plugin; returns the file with the notes."""
    folder = tmp_path / "site"
    info = folder / "smolrecipe_noting-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "smolrecipe_noting.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: smolrecipe-noting\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[smolrecipe]\nnoting = smolrecipe_noting\n")
    import os

    monkeypatch.setenv("PYTHONPATH", f"{os.environ['PYTHONPATH']}{os.pathsep}{folder}")
    monkeypatch.setenv("SMOLRECIPE_PLUGINS", "toy,noting")
    return folder / "calls.txt"


def test_the_hook_order_of_a_run(calls: Path, write_recipe: Write, smolrecipe: Run) -> None:
    recipe = write_recipe(
        "name: toy\nlauncher: {use: direct}\n"
        "stages:\n  two: {use: count, to: 1, from: one}\n  one: {use: count, to: 2}\n"
    )
    smolrecipe("run", recipe, check=0)
    catalog = ["optimizers", "packers", "generators", "filters"]
    assert calls.read_text().splitlines() == [
        *catalog,
        "check_plan one two",
        *catalog,
        "before one",
        "after one {'number': 2}",
        *catalog,
        "before two",
        "after two {'number': 3}",
    ]
    calls.unlink()
    smolrecipe("run", recipe, check=0)
    assert calls.read_text().splitlines() == [*catalog, "check_plan one two"]


def test_plugins_add_commands_and_find_recipes(calls: Path, write_recipe: Write, smolrecipe: Run) -> None:
    assert smolrecipe("hello", check=0).stdout == "hello from a plugin\n"
    assert "hello" in smolrecipe("--help", check=0).stdout
    write_recipe("name: toy\nlauncher: {use: direct}\nstages:\n  one: {use: count, to: 2}\n", "site/ours.yaml")
    assert "valid, 1 stages" in smolrecipe("validate", "team:ours.yaml", check=0).stdout


def test_a_failing_commands_hook_does_not_take_the_command_line_down(calls: Path, smolrecipe: Run) -> None:
    plugin = calls.parent / "smolrecipe_noting.py"
    plugin.write_text(PLUGIN.replace("@cli.command()", "raise KeyError('oops')\n    @cli.command()"))
    result = smolrecipe("--help", check=0)
    assert "plugin 'noting' could not add its commands: KeyError: 'oops'" in result.stderr
