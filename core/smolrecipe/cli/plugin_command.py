"""``smolrecipe plugin new``: a package for a plugin of one's own."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from smolrecipe.cli.session import Session
from smolrecipe_registry.scaffold import COMPONENTS, write_plugin


@click.group(epilog="\b\nExample:\n  smolrecipe plugin new simpo --kind preference-loss")
def plugin() -> None:
    """Write a plugin of your own."""


@plugin.command(
    epilog="\b\nExamples:\n  smolrecipe plugin new simpo --kind preference-loss\n"
    "  smolrecipe plugin new muon --kind optimizer --folder ./muon"
)
@click.argument("name")
@click.option(
    "--kind",
    type=click.Choice(list(COMPONENTS)),
    required=True,
    metavar="KIND",
    help=f"What the plugin will offer: {', '.join(COMPONENTS)}.",
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    help="Where to write it: a new folder, or an empty one.  [default: ./smolrecipe-NAME]",
)
@click.pass_obj
def new(session: Session, name: str, kind: str, folder: Path | None) -> None:
    """Write a package that installs, is found, and passes its own tests.

    NAME is what recipes write after 'use:'. The component in it works; put yours in its place.
    """
    folder = folder or Path(f"smolrecipe-{name}")
    for path in write_plugin(name, kind, folder, session.registry.catalog):
        click.echo(folder / path)
    click.echo("\nThen:")
    click.echo(f"  cd {shlex.quote(str(folder))}")
    click.echo("  pip install --editable '.[dev]'")
    click.echo(f"  smolrecipe plugins test {name}")
    click.echo("  smolrecipe validate recipe.yaml")
