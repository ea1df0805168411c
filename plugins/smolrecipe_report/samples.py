"""Rows that a stage was trained on, taken apart into what it learned from and what it only read.

Post-training stages publish some of their rows (``row_sample.parquet``). The files may be a stranger's: whatever goes
wrong in reading them is a sentence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow.parquet
from attrs import frozen
from tokenizers import Tokenizer  # noqa: TID253

from smolrecipe import StageError, untrusted
from smolrecipe.stage import MODEL_FOLDER
from smolrecipe.strict_json import printable

SAMPLE_FILE = "row_sample.parquet"
MOST_TOKENS = 600
"""Of a row that is shown; what follows is counted."""

_MASKED = -100
"""The label of a token that no loss is taken of (Hugging Face's convention)."""
_LONGEST_SECONDS = 20.0


@frozen(kw_only=True)
class Piece:
    """Tokens that stand side by side and are all learned from, or all only read."""

    text: str
    tokens: int
    learned: bool


@frozen(kw_only=True)
class SampleRow:
    """A row: ``title`` says which, ``left_out`` how many tokens of its end are not shown."""

    source: str
    row: int
    title: str
    pieces: Sequence[Piece]
    tokens: int
    learned: int
    left_out: int


def has_sample(folder: Path) -> bool:
    """Whether the stage in this folder has published some of its rows."""
    return (folder / SAMPLE_FILE).is_file()


def sample_rows(folder: Path, source: str | None = None, row: int | None = None) -> list[SampleRow]:
    """The published rows of a stage, one by default: of each source that it was trained on the first.

    A preference pair is two rows, chosen and rejected.

    Raises:
        StageError: when there are none such, or a file cannot be read.
    """
    table = _read(folder / SAMPLE_FILE)
    chosen: dict[str, Mapping[str, Any]] = {}
    for line in table:
        name = str(line.get("source"))
        wanted = name == source if source is not None else not name.startswith("held_out.")
        if wanted and (line.get("row") == row if row is not None else name not in chosen) and _is_whole(line):
            chosen[name] = line
    if not chosen:
        sources = ", ".join(sorted({printable(str(line.get("source"))) for line in table})) or "none"
        raise StageError(
            f"{folder / SAMPLE_FILE} has no such row; its sources: {sources}, of each the first rows and a few later"
        )
    tokenizer = _tokenizer(folder / MODEL_FOLDER / "tokenizer.json")
    return [found for line in chosen.values() for found in _rows(line, tokenizer)]


def _read(path: Path) -> list[dict[str, Any]]:
    with untrusted(f"{path} cannot be read", seconds=_LONGEST_SECONDS):
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    return rows


def _tokenizer(path: Path) -> Tokenizer:
    with untrusted(f"the tokenizer in {path} cannot be read", seconds=_LONGEST_SECONDS):
        return Tokenizer.from_file(str(path))


def _is_whole(line: Mapping[str, Any]) -> bool:
    """Whether the row was trained on: one that was left out has no tokens."""
    return any(line.get(ids) is not None for ids in ("input_ids", "chosen_ids"))


def _rows(line: Mapping[str, Any], tokenizer: Tokenizer) -> Iterator[SampleRow]:
    source, number = printable(str(line["source"])), line["row"] if isinstance(line.get("row"), int) else 0
    halves = {
        "": (line.get("input_ids"), [label != _MASKED for label in line.get("labels") or ()]),
        ", chosen": (line.get("chosen_ids"), line.get("chosen_mask")),
        ", rejected": (line.get("rejected_ids"), line.get("rejected_mask")),
    }
    for half, (ids, learned) in halves.items():
        if not ids:
            continue
        if not isinstance(learned, list) or len(learned) != len(ids) or not all(isinstance(one, int) for one in ids):
            raise StageError(f"row {number} of '{source}' in {SAMPLE_FILE} is no row: its lists do not fit together")
        shown = list(zip(ids, map(bool, learned), strict=True))[:MOST_TOKENS]
        yield SampleRow(
            source=source,
            row=number,
            title=f"{source}, row {number}{half}",
            pieces=[_piece(tokenizer, [one for one, _ in run], key) for key, run in _runs(shown)],
            tokens=len(ids),
            learned=sum(map(bool, learned)),
            left_out=len(ids) - len(shown),
        )


def _runs(shown: Sequence[tuple[int, bool]]) -> Iterator[tuple[bool, list[tuple[int, bool]]]]:
    for key, run in groupby(shown, key=lambda pair: pair[1]):
        yield key, list(run)


def _piece(tokenizer: Tokenizer, ids: Sequence[int], learned: bool) -> Piece:
    with untrusted("the tokenizer does not decode a row", seconds=_LONGEST_SECONDS):
        text = tokenizer.decode(list(ids), skip_special_tokens=False)
    return Piece(text=text, tokens=len(ids), learned=learned)
