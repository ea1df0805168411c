"""``smolrecipe plugins``: what is installed, what it offers, what was set aside; and one plugin tested alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from smolrecipe.cli.session import Session, json_option
from smolrecipe.cli.tables import print_table
from smolrecipe.components import KINDS
from smolrecipe_registry.discovery import plugin_entries


def complete_plugins(incomplete: str) -> list[str]:
    """Names of installed plugins that begin so; of several, separated by commas, the last is completed."""
    before, comma, begun = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in plugin_entries() if name.startswith(begun)]


@click.group(
    invoke_without_command=True,
    epilog="\b\nExamples:\n  smolrecipe plugins\n  smolrecipe plugins --traceback      why one was set aside\n"
    "  smolrecipe plugins test apo         one alone",
)
@json_option
@click.option("--traceback", "show_traceback", is_flag=True, help="Show why plugins were set aside, in full.")
@click.pass_context
def plugins(context: click.Context, as_json: bool, show_traceback: bool) -> None:
    """List plugins and the names they offer, or test one alone."""
    if context.invoked_subcommand is None:
        _list(context.obj, as_json, show_traceback)


@plugins.command(
    context_settings={"ignore_unknown_options": True},
    epilog="\b\nExamples:\n  smolrecipe plugins test apo\n"
    "  smolrecipe plugins test apo -x -k zero        what follows NAME is pytest's\n"
    "  smolrecipe plugins test --all --jobs 2",
)
@click.option("--all", "every", is_flag=True, help="Test every installed plugin.")
@click.option(
    "--tests",
    type=click.Path(exists=True, path_type=Path),
    help="The plugin's own tests.  [default: its files in ./tests/plugins, or ./tests where its source lies here]",
)
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Plugins tested at a time.")
@click.argument(
    "arguments",
    metavar="[NAME] [PYTEST ARGUMENTS]...",
    nargs=-1,
    type=click.UNPROCESSED,
    shell_complete=lambda context, parameter, incomplete: complete_plugins(incomplete),
)
def test(every: bool, tests: Path | None, jobs: int, arguments: tuple[str, ...]) -> None:
    """Run a plugin's tests and conformance checks where only it exists.

    No other plugin can be imported there, and no package but those that its distribution declares. Exits with 0 if all
    is well, with 1 if something failed, with 2 for a name that is not installed.
    """
    from smolrecipe_registry.isolation import refuse_unknown, run_each

    if not every and (not arguments or arguments[0].startswith("-")):
        raise click.UsageError("name an installed plugin, or give --all")
    names = list(plugin_entries()) if every else [arguments[0]]
    refuse_unknown(names)
    failed = run_each(names, tests, arguments if every else arguments[1:], jobs)
    if failed:
        click.echo(f"failed alone: {', '.join(failed)}", err=True)
        sys.exit(1)


def _list(session: Session, as_json: bool, show_traceback: bool) -> None:
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
