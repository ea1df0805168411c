"""Commands that are imported when they are called: none starts with more than it needs, and names stay the core's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import click
import pytest
from click.testing import CliRunner

from smolrecipe.cli.group import CommandGroup
from smolrecipe.commands import Later

PROGRAM = """
import sys
from smolrecipe.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
heavy = ("smolrecipe_registry.discovery", "yaml", "cattrs", "rich")
print([name for name in heavy if name in sys.modules], [name for name in sys.modules if name.endswith("_command")])
"""


def imported(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-c", PROGRAM, *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return result.stdout.splitlines()[-1] + result.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["ls", "--json"], "['smolrecipe.cli.ls_command']"),
        (["completion", "bash"], "['smolrecipe.cli.completion_command']"),
        (["status", "nowhere", "--help"], "['smolrecipe.cli.status_command']"),
        (["validate", "--help"], "['smolrecipe.cli.validate_command']"),
    ],
)
def test_a_command_imports_no_other_and_no_plugin(tmp_path: Path, arguments: list[str], expected: str) -> None:
    told = imported(tmp_path, *arguments)
    assert told.endswith(expected) and "smolrecipe_registry.discovery" not in told


def test_the_list_of_commands_imports_none_of_the_core(toy_plugin: None, tmp_path: Path) -> None:
    assert imported(tmp_path, "--help").endswith("['smolrecipe_registry.discovery'] []")


OWN = click.Command("own", callback=lambda number: click.echo("own"), params=[click.Option(["--number"], type=int)])


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> str:
    """Where a command lies."""
    module = ModuleType("planted_commands")
    vars(module)["own"] = OWN
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return f"{module.__name__}:own"


def hello() -> click.Command:
    return click.Command("hello", callback=lambda: click.echo("hello"))


def test_others_are_asked_only_for_what_is_not_the_cores(target: str) -> None:
    asked: list[click.Group] = []

    def others(group: click.Group) -> None:
        asked.append(group)
        group.add_command(hello())
        with pytest.raises(ValueError, match="'own' is a command of smolrecipe's own"):
            group.add_command(hello(), "own")

    group = CommandGroup("group")
    group.add_own("own", target, "says own")
    group.ask_others(others)
    assert CliRunner().invoke(group, ["own"]).output == "own\n" and asked == []
    assert CliRunner().invoke(group, ["hello"]).output == "hello\n" and asked == [group]
    assert "says own" in CliRunner().invoke(group, ["--help"]).output and asked == [group]


def test_what_comes_later_is_called_helped_and_refused_as_itself(target: str) -> None:
    group = click.Group("group", commands=[Later("own", target, "says own")])
    assert CliRunner().invoke(group, ["own"]).output == "own\n"
    assert "--number INTEGER" in CliRunner().invoke(group, ["own", "--help"]).output
    assert CliRunner().invoke(group, ["own", "--number", "x"]).exit_code == 2
