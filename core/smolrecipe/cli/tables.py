"""Tables for a terminal, or plain aligned columns where the output is none."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

_STYLES = {"holds": "green", "FAILS": "bold red", "better": "green", "worse": "yellow"}
"""Colours of cells that are a verdict."""


def print_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), title: str = ""
) -> None:
    """Print rows under headings; columns with an index in ``right`` are aligned to the right."""
    if sys.stdout.isatty():
        _print_rich(headings, rows, right, title)
        return
    if title:
        click.echo(title)
    lines = [tuple(headings), *map(tuple, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    for line in lines:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())


def _print_rich(headings: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int], title: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", title_style="bold", pad_edge=False)
    for column, heading in enumerate(headings):
        table.add_column(heading, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    Console(highlight=False).print(table)
