"""``smolrecipe docs``: the reference of what is installed, in the terminal or as Markdown files."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from smolrecipe.cli.session import Session


def _complete_name(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from smolrecipe_registry.reference.descriptors import contract_names
    from smolrecipe_registry.reference.hooks import hook_names
    from smolrecipe_registry.restriction import restriction_from_environment

    components = {component.name for component, _ in Session(restriction_from_environment()).registry.catalog}
    return [name for name in (*sorted(components), *hook_names(), *contract_names()) if name.startswith(incomplete)]


@click.command(
    short_help="Show the options of a component, a hook or a class.",
    epilog="\b\nExamples:\n  smolrecipe docs sft                      every option of a stage kind\n"
    "  smolrecipe docs smolrecipe_losses        a hook, with an example that runs",
)
@click.argument("name", required=False, shell_complete=_complete_name)
@click.option(
    "--out", metavar="FOLDER", type=click.Path(file_okay=False, path_type=Path), help="Write all pages into a folder."
)
@click.pass_obj
def docs(session: Session, name: str | None, out: Path | None) -> None:
    """Show the options of a component, a hook, or a class that plugins use.

    NAME is what recipes write after 'use:', a hook's name, or a class of the contract such as StageContext. Without it,
    everything installed is listed.
    """
    from smolrecipe_registry.reference.pages import index_page, page_about, without_links, write_pages

    catalog = session.registry.catalog
    if out is not None:
        if name is not None:
            raise click.UsageError("--out writes all pages: give a NAME or --out, not both")
        written = write_pages(catalog, out)
        click.echo(f"{len(written)} pages written to {out}")
        return
    _print(without_links(index_page(catalog)) if name is None else page_about(name, catalog))


def _print(text: str) -> None:
    """Print Markdown: rendered on a terminal, as it is anywhere else."""
    if not sys.stdout.isatty():
        click.echo(text, nl=not text.endswith("\n"))
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(text, code_theme="ansi_dark"))
