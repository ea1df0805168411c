"""The command line as its user meets it: help, listings, origins, errors, start-up without an engine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HEAD = "name: toy\nlauncher: {use: direct}\n"
GOOD = HEAD + "model: {m: {use: layers, count: 3}}\nstages:\n  one: {use: count, to: 3}\n  two: {use: build}\n"
Write = Callable[..., Path]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.usefixtures("toy_plugin")
class TestWithTheToyPlugin:
    def test_validate(self, write_recipe: Write, smolrecipe: Run) -> None:
        assert "valid, 2 stages" in smolrecipe("validate", write_recipe(GOOD), check=0).stdout

    def test_mistakes_exit_with_2_and_are_all_shown(self, write_recipe: Write, smolrecipe: Run) -> None:
        recipe = write_recipe(HEAD + "stages:\n  one: {use: count, too: 3}\n  one: {use: count}\n")
        duplicate = smolrecipe("run", recipe, check=2)
        assert f"{recipe}:5:3: duplicate key 'one', first given on line 4" in duplicate.stderr
        recipe = write_recipe(HEAD + "stages:\n  one: {use: count, too: 3}\n")
        result = smolrecipe("run", recipe, check=2)
        assert (
            f"{recipe}:4:21: unknown key 'too' in 'stages.one' (stage kind 'count'); did you mean 'to'?"
            in result.stderr
        )
        assert "lacks the required key 'to'" in result.stderr and "2 problems" in result.stderr

    def test_a_recipe_that_is_not_there(self, smolrecipe: Run) -> None:
        result = smolrecipe("run", "nowhere.yaml", check=2)
        assert "error: no recipe 'nowhere.yaml': there is no such file" in result.stderr

    def test_show_resolved_tells_each_values_origin(self, write_recipe: Write, smolrecipe: Run) -> None:
        recipe = write_recipe(GOOD)
        result = smolrecipe("show", recipe, "--resolved", "--json", "--set", "stages.one.flag=true", check=0)
        values = json.loads(result.stdout)
        assert values["stages.one.to"] == {"value": 3, "origin": f"{recipe}:5:21"}
        assert values["stages.one.flag"] == {"value": True, "origin": "--set stages.one.flag"}
        assert values["stages.one.seconds"] == {"value": 0.0, "origin": "default"}
        assert values["stages.two.model.m.count"] == {"value": 3, "origin": f"{recipe}:3:26"}
        text = smolrecipe("show", recipe, "--resolved", check=0).stdout
        assert "    to: 3" in text and f"# {recipe}:5:21" in text
        short = smolrecipe("show", recipe, check=0).stdout
        assert "seconds" not in short and "to: 3" in short

    def test_plan_tells_what_would_run(self, write_recipe: Write, smolrecipe: Run) -> None:
        recipe = write_recipe(GOOD)
        assert [stage["status"] for stage in self.plan(smolrecipe, recipe)] == ["to run", "to run"]
        smolrecipe("run", recipe, check=0)
        assert [stage["status"] for stage in self.plan(smolrecipe, recipe)] == ["published", "published"]
        assert "published" in smolrecipe("plan", recipe, check=0).stdout

    @staticmethod
    def plan(smolrecipe: Run, recipe: Path) -> list[dict[str, str]]:
        return json.loads(smolrecipe("plan", recipe, "--json", check=0).stdout)["stages"]

    def test_ls_lists_artifacts(self, write_recipe: Write, smolrecipe: Run) -> None:
        assert "nothing in runs" in smolrecipe("ls", check=0).stdout
        smolrecipe("run", write_recipe(GOOD), check=0)
        listing = json.loads(smolrecipe("ls", "--json", check=0).stdout)
        assert [(item["kind"], item["status"]) for item in listing] == [("count", "published"), ("build", "published")]
        assert "count" in smolrecipe("ls", check=0).stdout

    def test_plugins_lists_what_is_on_offer(self, smolrecipe: Run) -> None:
        (listing,) = json.loads(smolrecipe("plugins", "--json", check=0).stdout)
        assert (
            listing["plugin"] == "toy" and {"kind": "loss", "name": "toy_loss", "summary": "loss"} in listing["offers"]
        )
        assert "toy_loss" in smolrecipe("plugins", check=0).stdout

    def test_an_unknown_plugin_is_refused_by_name(self, smolrecipe: Run) -> None:
        result = smolrecipe("--plugins", "toyy", "plugins", check=2)
        assert "no plugin 'toyy' is installed; did you mean 'toy'?" in result.stderr

    def test_usage_errors_exit_with_2(self, smolrecipe: Run) -> None:
        assert "No such command" in smolrecipe("rum", check=2).stderr
        assert "Missing argument" in smolrecipe("run", check=2).stderr


def test_start_up_imports_no_engine() -> None:
    code = (
        "import sys, smolrecipe.cli.session as s; s.Session(None).registry\n"
        "print([m for m in ('torch', 'transformers', 'datasets', 'numpy', 'rich') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_help_and_version(smolrecipe: Run) -> None:
    assert "Run whole language-model recipes" in smolrecipe("--help", check=0).stdout
    assert smolrecipe("--version", check=0).stdout.startswith("smolrecipe, version ")
    for command in ("run", "plan", "validate", "show", "plugins", "ls"):
        assert smolrecipe(command, "--help", check=0).stdout
