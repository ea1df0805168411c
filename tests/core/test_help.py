"""The help of every command, our plugins' too: an example that parses, a screen of 80 columns, the exit codes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from smolrecipe.cli.main import cli
from smolrecipe.commands import Later

_COLUMNS = 80


def commands(group: click.Group, *above: str) -> Iterator[tuple[str, ...]]:
    """The words that call each command that is for people, groups among them."""
    for name, command in sorted(group.commands.items()):
        if not command.hidden:
            yield (*above, name)
            command = command.command if isinstance(command, Later) else command
            if isinstance(command, click.Group):
                yield from commands(command, *above, name)


cli.list_commands(click.Context(cli))  # from here on those of plugins are among them
COMMANDS = [*commands(cli)]


def screen(words: tuple[str, ...]) -> str:
    result = CliRunner().invoke(cli, [*words, "--help"], terminal_width=_COLUMNS)
    assert result.exit_code == 0, result.output
    return result.output


def examples(words: tuple[str, ...]) -> list[list[str]]:
    """The examples on a help screen, as words; what stands behind three spaces or more is said of one, and no part."""
    heading, _, block = screen(words).rpartition("\n  Example")
    assert heading, f"{' '.join(words)} shows no example"
    block = re.sub(r"\\\n\s*", "", block.partition("\n\n")[0])
    lines = [re.sub(r"(?<=\S) {3,}.*", "", line.strip()) for line in block.splitlines()[1:]]
    return [shlex.split(re.sub(r'^eval "\$\((.*)\)"$', r"\1", line)) for line in lines]


def test_plugins_commands_are_among_them() -> None:
    expected = [("report",), ("data", "inspect"), ("card",), ("push",), ("launch", "slurm"), ("launch", "node")]
    assert {*expected, ("run",), ("plugins", "test")} <= {*COMMANDS}


def later(group: click.Group) -> Iterator[Later]:
    """Commands that are imported when they are called, in groups too."""
    for command in group.commands.values():
        if isinstance(command, Later):
            yield command
        elif isinstance(command, click.Group):
            yield from later(command)


def test_lists_say_of_a_command_what_it_says_of_itself() -> None:
    found = [*later(cli)]
    assert {"run", "show", "card", "data", "slurm"} <= {command.name for command in found}
    for command in found:
        itself = command.command
        assert (itself.name, itself.hidden) == (command.name, command.hidden)
        assert command.hidden or command.get_short_help_str(200) == itself.get_short_help_str(200)


@pytest.mark.parametrize("words", [(), *COMMANDS], ids=" ".join)
def test_examples_parse(words: tuple[str, ...]) -> None:
    found = examples(words)
    assert found
    assert any(example[1 : 1 + len(words)] == [*words] for example in found), "one of them is of this command"
    for program, *arguments in found:
        assert program == "smolrecipe"
        if ">" in arguments:
            del arguments[arguments.index(">") :]
        parse(cli, program, arguments)


def parse(command: click.Command, name: str, arguments: list[str], above: click.Context | None = None) -> None:
    """Parse as ``main`` does, without running anything."""
    with command.make_context(name, [*arguments], parent=above) as context:
        if isinstance(command, click.Group) and (left := [*context._protected_args, *context.args]):
            inner, found, left = command.resolve_command(context, left)
            assert inner is not None and found is not None
            parse(found.command if isinstance(found, Later) else found, inner, left, context)


@pytest.mark.parametrize(
    "arguments",
    [["runn"], ["run"], ["run", "a", "b"], ["run", "a", "--onyl", "b"], ["plugin", "new", "a", "--kind", "b"]],
)
def test_what_does_not_parse_is_found(arguments: list[str]) -> None:
    with pytest.raises(click.UsageError):
        parse(cli, "smolrecipe", arguments)


@pytest.mark.parametrize("words", [(), *COMMANDS], ids=" ".join)
def test_a_screen_of_80_columns_holds_it(words: tuple[str, ...]) -> None:
    text = screen(words)
    assert [line for line in text.splitlines() if len(line) > _COLUMNS] == []
    listed = text.partition("\nCommands:\n")[2].partition("\n\n")[0]
    assert "..." not in listed, "what a command is for is said whole"


def test_exit_codes_are_those_of_the_readme(repository: Path) -> None:
    told = screen(()).partition("Exit codes:\n")[2]
    rows = re.findall(r"^\| ([\d, ]+) \|", (repository / "README.md").read_text(), re.MULTILINE)
    documented = [code.strip() for row in rows for code in row.split(",")]
    assert re.findall(r"^ {4}(\d+) ", told, re.MULTILINE) == documented == ["0", "1", "2", "130", "143"]
