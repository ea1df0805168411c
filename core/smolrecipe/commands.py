"""Commands that are imported when they are called: a list of all commands imports none of them.

For implementations of ``smolrecipe_commands`` too, whose commands would otherwise be imported at every ``smolrecipe
--help``: ``cli.add_command(Later("card", "smolrecipe_hub.commands:card_command", "Write the model card."))``.
"""

from __future__ import annotations

import functools
import pkgutil
from typing import Any

import click

__all__ = ["Later"]


class Later(click.Command):
    """What lists show of a command, in place of the command that lies at ``target`` (``package.module:name``).

    ``short_help`` is what the command says of itself in one line; names that begin with an underscore are not listed.
    """

    def __init__(self, name: str, target: str, short_help: str = "") -> None:
        super().__init__(name, short_help=short_help, hidden=name.startswith("_"))
        self._target = target

    @functools.cached_property
    def command(self) -> click.Command:
        """The command itself, imported when it is first asked for."""
        command = pkgutil.resolve_name(self._target)
        assert isinstance(command, click.Command)
        return command

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """That of the command itself: from here on click calls, documents and completes that."""
        return self.command.make_context(info_name, args, parent, **extra)
