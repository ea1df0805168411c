"""``smolrecipe plugins``: what is installed, what it offers, and what was set aside."""

from __future__ import annotations

import json
import sys

import click

from smolrecipe.cli.session import Session, json_option
from smolrecipe.cli.tables import print_table
from smolrecipe.components import KINDS


@click.command()
@json_option
@click.option("--traceback", "show_traceback", is_flag=True, help="Show why plugins were set aside, in full.")
@click.pass_obj
def plugins(session: Session, as_json: bool, show_traceback: bool) -> None:
    """List plugins and the names they offer."""
    registry = session.registry
    offers: dict[str, list[tuple[str, str, str]]] = {name: [] for name in registry.plugins}
    for component, provider in registry.catalog:
        offers[provider.plugin].append((KINDS[type(component)], component.name, component.summary))
    if as_json:
        listing = [
            {
                "plugin": found.name,
                "distribution": found.distribution,
                "version": found.version,
                "error": found.error or None,
                "offers": [
                    {"kind": kind, "name": name, "summary": summary} for kind, name, summary in offers[found.name]
                ],
            }
            for found in registry.plugins.values()
        ]
        click.echo(json.dumps(listing, indent=2))
    else:
        rows = [
            (found.name if index == 0 else "", kind, name, summary)
            for found in registry.plugins.values()
            for index, (kind, name, summary) in enumerate(offers[found.name] or [("", "", _status(found.error))])
        ]
        print_table(("plugin", "offers a", "use:", "which is"), rows)
    for label, providers in registry.catalog.conflicts().items():
        click.echo(f"conflict: {label} is offered by {' and by '.join(map(str, providers))}", err=True)
    for found in registry.plugins.values():
        if found.error:
            click.echo(f"set aside: plugin '{found.name}' ({found.target}): {found.error}", err=True)
            if show_traceback:
                click.echo(found.traceback, err=True)
    if registry.catalog.conflicts():
        sys.exit(2)


def _status(error: str) -> str:
    return f"set aside: {error}" if error else "hooks only"
