"""``smolrecipe report RUN``: one page about a run, read from what its stages have left behind; ``data inspect``."""

from __future__ import annotations

from pathlib import Path

import click

import smolrecipe
from smolrecipe import RecipeError, UserError
from smolrecipe.commands import Later
from smolrecipe.completing import complete_run


@smolrecipe.hookimpl
def smolrecipe_commands(cli: click.Group) -> None:
    """Add ``report`` and ``data inspect``."""
    cli.add_command(report)
    cli.add_command(Later("data", "smolrecipe_report.inspecting:data", "Look at data as stages see it."))


@click.command(
    short_help="Write an HTML page about a run, and its figures.",
    epilog="\b\nExamples:\n  smolrecipe report runs/smollm3-tiny\n"
    "  smolrecipe report runs/smollm3-tiny --out /tmp/report",
)
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path), shell_complete=complete_run)
@click.option("--out", type=click.Path(path_type=Path), help="The folder to write to.  [default: RUN-report]")
def report(run: Path, out: Path | None) -> None:
    """Write a self-contained HTML page about a run, finished or not, and its figures as PNG files.

    In the folder it writes to it replaces and removes what an earlier report wrote there, and nothing else.
    """
    from smolrecipe_report.last_run import last_run

    try:
        from smolrecipe_report.page import write_report
    except ModuleNotFoundError as error:
        raise RecipeError([f"'report' needs {error.name}; install it with: pip install 'smolrecipe[report]'"]) from None
    if not run.is_dir():
        raise RecipeError([f"{run} is no folder; name a run's folder, such as runs/smollm3-tiny"])
    stages, earlier = last_run(run)
    if not stages:
        raise RecipeError([f"there is nothing to report: {run} has no stage in it, published or begun"])
    folder = out or run.absolute().with_name(f"{run.absolute().name}-report")
    try:
        page = write_report(run.absolute(), stages, earlier, folder)
    except OSError as error:
        raise UserError(f"the report cannot be written to {folder} ({error.strerror})") from None
    click.echo(f"{page}: {len(stages)} stages")
