"""The command group: the core's commands, and those of plugins once a name may be one of theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from smolrecipe.commands import Later


class CommandGroup(click.Group):
    """Commands of the core, which lie in wait, and of others, which are asked for theirs when the core's do not do.

    A command of the core so starts without any plugin that it does not use.
    """

    def __init__(self, *args: Any, **extra: Any) -> None:
        super().__init__(*args, **extra)
        self._own: set[str] = set()
        self._others: Callable[[click.Group], None] | None = None

    def add_own(self, name: str, target: str, short_help: str = "") -> None:
        """Add a command of the core, which lies at ``target``."""
        self.add_command(Later(name, target, short_help))
        self._own.add(name)

    def add_command(self, command: click.Command, name: str | None = None) -> None:
        """Add a command.

        Raises:
            ValueError: when its name is that of one of the core's.
        """
        name = name or command.name
        if name in self._own:
            raise ValueError(f"'{name}' is a command of smolrecipe's own")
        super().add_command(command, name)

    def ask_others(self, others: Callable[[click.Group], None]) -> None:
        """Have ``others(group)`` add commands when commands are listed, or one is called that is not the core's."""
        self._others = others

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands."""
        self._add_others()
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        if cmd_name not in self._own:
            self._add_others()
        return super().get_command(ctx, cmd_name)

    def _add_others(self) -> None:
        others, self._others = self._others, None
        if others is not None:
            others(self)
