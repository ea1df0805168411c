"""Handing on: a model card written from what a run has recorded, and the upload of a model to the Hugging Face Hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smolrecipe import hookimpl

if TYPE_CHECKING:
    import click


@hookimpl
def smolrecipe_commands(cli: click.Group) -> None:
    """Add ``card`` and ``push``."""
    from smolrecipe.commands import Later

    card, push = "Write the model card of what a run has made.", "Upload a model with its card to the Hugging Face Hub."
    cli.add_command(Later("card", "smolrecipe_hub.commands:card_command", card))
    cli.add_command(Later("push", "smolrecipe_hub.commands:push_command", push))
