"""Handing on: a model card written from what a run has recorded, and the upload of a model to the Hugging Face Hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smolrecipe import hookimpl

if TYPE_CHECKING:
    import click


@hookimpl
def smolrecipe_commands(cli: click.Group) -> None:
    """Add ``card`` and ``push``."""
    from smolrecipe_hub.commands import card_command, push_command

    cli.add_command(card_command)
    cli.add_command(push_command)
