"""``smolrecipe completion``: what has a shell complete commands, options, recipes, runs and stages."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

VARIABLE = "_SMOLRECIPE_COMPLETE"
"""Under which click looks for what a shell asks it to complete."""


@click.command(
    short_help="Have a shell complete what you type.",
    epilog="\b\nExamples:\n"
    '  eval "$(smolrecipe completion bash)"            in ~/.bashrc\n'
    '  eval "$(smolrecipe completion zsh)"             in ~/.zshrc, after compinit\n'
    "  smolrecipe completion fish > ~/.config/fish/completions/smolrecipe.fish",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes a shell complete commands, options, recipes, runs and stages.

    The shell runs it once, when it starts; then Tab asks smolrecipe itself, so that what plugins add is completed too.
    """
    root = context.find_root().command
    source = get_completion_class(shell)
    assert source is not None
    click.echo(source(root, {}, "smolrecipe", VARIABLE).source())
