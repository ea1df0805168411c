"""``smolrecipe data inspect STAGE``: rows that a stage was trained on, their documents and what it learned from."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click

from smolrecipe import RecipeError, near_miss
from smolrecipe.completing import complete_run, complete_stage
from smolrecipe_report.last_run import last_run
from smolrecipe_report.reading import Stage

if TYPE_CHECKING:
    from smolrecipe_report.samples import Piece

_COLOURS = ("cyan", "yellow")


@click.group(epilog="\b\nExample:\n  smolrecipe data inspect sft --run runs/smollm3-tiny")
def data() -> None:
    """Look at data as stages see it."""


@data.command(
    short_help="Print rows that a stage was trained on.",
    epilog="\b\nExamples:\n  smolrecipe data inspect pretrain-1 --run runs/smollm3-tiny\n"
    "  smolrecipe data inspect apo --run runs/mine --source no-think --row 3",
)
@click.argument("stage", shell_complete=complete_stage)
@click.option(
    "--run",
    type=click.Path(path_type=Path),
    required=True,
    shell_complete=complete_run,
    help="The folder of a run, such as runs/smollm3-tiny.",
)
@click.option("--source", help="One source only, e.g. held_out.think.  [default: each that the stage was trained on]")
@click.option(
    "--row",
    type=click.IntRange(min=0),
    help="The row's number: of pretraining among all of the stage, else in its source.  [default: the first]",
)
def inspect(stage: str, run: Path, source: str | None, row: int | None) -> None:
    """Print rows that STAGE was trained on: their documents, what it learned from, and what it only read.

    On a terminal documents are in turn cyan and yellow, and what was only read is dim; elsewhere what was learned from
    stands between ⟦ and ⟧. What is printed is the text that the stage's tokens spell, control tokens with it.
    """
    try:
        from smolrecipe_report.samples import SAMPLE_FILE, has_sample, sample_rows
    except ModuleNotFoundError as error:
        raise RecipeError(
            [f"'data inspect' needs {error.name}; install it with: pip install 'smolrecipe[report]'"]
        ) from None
    found = _stage(run, stage)
    if not has_sample(found):
        raise RecipeError([f"{found.folder} has no {SAMPLE_FILE}: only stages that train publish some of their rows"])
    for number, shown in enumerate(sample_rows(found, source, row)):
        gap = "\n" if number else ""
        click.secho(f"{gap}{shown.caption}", bold=True)
        if shown.mask:
            click.echo(shown.mask)
        for document, pieces in groupby(shown.pieces, key=lambda piece: piece.document):
            if shown.apart is not None:
                click.secho(("\n" if document else "") + f"-- {shown.heading(document)}", bold=True)
            click.echo("".join(_text(piece) for piece in pieces), nl=False)
        click.echo(f"\n... and {shown.left_out} tokens more" if shown.left_out else "")


def _stage(run: Path, name: str) -> Stage:
    if not run.is_dir():
        raise RecipeError([f"{run} is no folder; name a run's folder, such as runs/smollm3-tiny"])
    stages = {stage.name: stage for stage in last_run(run)[0] if stage.status == "published"}
    if name not in stages:
        hint = near_miss(name, stages) or f"; published: {', '.join(stages) or 'none'}"
        raise RecipeError([f"{run} has no published stage '{name}'{hint}"])
    return stages[name]


def _text(piece: Piece) -> str:
    """Text whose control characters a terminal does not heed, with its line breaks."""
    plain = "".join(sign if sign == "\n" or sign.isprintable() else repr(sign)[1:-1] for sign in piece.text)
    if not click.get_text_stream("stdout").isatty():
        return f"⟦{plain}⟧" if piece.learned else plain
    return click.style(plain, fg=_COLOURS[piece.document % 2], dim=not piece.learned)
