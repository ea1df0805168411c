"""What several variants or runs measured, side by side: a row for each measure, a column for each of them."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click
from attrs import frozen

from smolrecipe.cli.tables import print_table

_WIDTH_OF_A_FILE = 100
_GAP = 3
"""Characters between two columns, at most."""
_BEST = "*"


@frozen(kw_only=True)
class Cell:
    """What one column has in a row: a measure, or a word that says why there is none."""

    measure: Mapping[str, Any] | None = None
    parents: Mapping[str, str] = {}
    """The artifacts that the measured stage was made from: name -> digest."""
    word: str = ""


@frozen(kw_only=True)
class Row:
    """One measure of one stage in every column."""

    stage: str
    name: str
    cells: tuple[Cell, ...]

    @property
    def measures(self) -> list[Mapping[str, Any]]:
        """The measures that there are."""
        return [cell.measure for cell in self.cells if cell.measure is not None]

    @property
    def label(self) -> str:
        """The measure's name with its unit."""
        unit = self.measures[0]["unit"]
        return f"{self.name}, {unit}" if unit else self.name

    @property
    def comparable(self) -> bool:
        """Whether all columns measure alike.

        They do not where the same artifacts measured differently before the stage: then an option of the stage is
        part of what is measured, as the loss is of a held-out loss.
        """
        known = [cell for cell in self.cells if cell.measure is not None and cell.measure["before"] is not None]
        return not any(
            first.parents == other.parents and not _close(first.measure["before"], other.measure["before"])
            for index, first in enumerate(known)
            for other in known[index + 1 :]
            if first.measure is not None and other.measure is not None
        )

    @property
    def before(self) -> str:
        """What all columns measured before the stage, where that is the same."""
        texts = {number(measure["before"]) for measure in self.measures if measure["before"] is not None}
        return texts.pop() if len(texts) == 1 else ""

    @property
    def best_is(self) -> str:
        """``higher`` or ``lower``."""
        return str(self.measures[0]["better"]) if self.comparable else "not comparable"

    def texts(self) -> list[str]:
        """The cells as they are shown, the best ones marked; values that look the same are as good as each other."""
        texts = [cell.word if cell.measure is None else number(cell.measure["after"]) for cell in self.cells]
        finite = [
            (measure["after"], text)
            for cell, text in zip(self.cells, texts, strict=True)
            if (measure := cell.measure) is not None and math.isfinite(measure["after"])
        ]
        best = ""
        if self.comparable and len({text for _, text in finite}) > 1:
            best = (max if self.best_is == "higher" else min)(finite)[1]
        return [f"{text} {_BEST}" if best and text == best else f"{text}  " for text in texts]


def rows_of(columns: Sequence[Mapping[tuple[str, str], Cell]], words: Sequence[Mapping[str, str]]) -> list[Row]:
    """The rows of columns that map (stage, measure) to a cell; ``words`` say why a stage has no measures there."""
    keys = dict.fromkeys(key for column in columns for key in column)
    return [
        Row(
            stage=stage,
            name=name,
            cells=tuple(
                column.get((stage, name), Cell(word=word.get(stage, "")))
                for column, word in zip(columns, words, strict=True)
            ),
        )
        for stage, name in keys
    ]


def print_side_by_side(names: Sequence[str], rows: Sequence[Row]) -> None:
    """Print a row for each measure under the columns' names, in the width of the terminal.

    Long names become numbers. Columns that still do not fit beside each other become rows, and where even these are
    too wide, the table is split.
    """
    texts = [row.texts() for row in rows]
    fixed = [(row.stage, row.label, row.before) for row in rows]
    room = _width() - sum(
        max(map(len, column)) + _GAP for column in zip(("stage", "measure", "before"), *fixed, strict=True)
    )
    room -= max(map(len, ("best is", *(row.best_is for row in rows))))
    headings = [f"{name}  " for name in names]
    if sum(_column_widths(headings, texts)) > room:
        headings = [f"({index})  " for index in range(1, len(names) + 1)]
    groups = list(_groups(_column_widths(headings, texts), room))
    if len(groups) > 1 and _print_turned(names, rows, texts):
        return
    _print_legend([] if headings[0].strip() == names[0] else names)
    for index, group in enumerate(groups):
        if index:
            click.echo()
        print_table(
            ("stage", "measure", "before", *(headings[column] for column in group), "best is"),
            [
                (*start, *(text[column] for column in group), row.best_is)
                for start, text, row in zip(fixed, texts, rows, strict=True)
            ],
            right=range(2, 3 + len(group)),
        )
    _print_note(rows)


def _print_turned(names: Sequence[str], rows: Sequence[Row], texts: Sequence[Sequence[str]]) -> bool:
    """Print a row for each name and a column for each measure, if that fits."""
    headings = [f"({index})  " for index in range(1, len(rows) + 1)]
    turned = [[text[column] for text in texts] for column in range(len(names))]
    if max(map(len, names)) + _GAP + sum(_column_widths(headings, turned)) > _width():
        return False
    before = [f", before {row.before}" if row.before else "" for row in rows]
    _print_legend(
        [f"{row.stage}: {row.label}{was}; best is {row.best_is}" for row, was in zip(rows, before, strict=True)]
    )
    lines = [(name, *line) for name, line in zip(names, turned, strict=True)]
    print_table(("", *headings), lines, right=range(1, 1 + len(rows)))
    _print_note(rows)
    return True


def _print_legend(meanings: Sequence[str]) -> None:
    for index, meaning in enumerate(meanings, start=1):
        click.echo(f"{f'({index})':>5} {meaning}")
    if meanings:
        click.echo()


def _print_note(rows: Sequence[Row]) -> None:
    if not all(row.comparable for row in rows):
        click.echo("not comparable: the same model measures differently there before the stage")


def number(value: float | None) -> str:
    """A measure as it is shown."""
    return "" if value is None else f"{value:.4g}"


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9) or (math.isnan(one) and math.isnan(other))


def _width() -> int:
    return shutil.get_terminal_size((_WIDTH_OF_A_FILE, 24)).columns


def _column_widths(headings: Sequence[str], texts: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(heading), *(len(text[column]) for text in texts)) + _GAP for column, heading in enumerate(headings)]


def _groups(widths: Sequence[int], room: int) -> Iterator[list[int]]:
    """Columns that fit beside each other, at least one at a time."""
    group: list[int] = []
    for column, width in enumerate(widths):
        if group and sum(widths[other] for other in group) + width > room:
            yield group
            group = []
        group.append(column)
    yield group
