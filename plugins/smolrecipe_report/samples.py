"""Rows that a stage was trained on, taken apart into documents, and into what it learned from and what it only read.

Stages publish some of their rows (``row_sample.parquet``): of pretraining packed rows of several documents, of
post-training conversations as they were before packing. The files may be a stranger's: whatever goes wrong in reading
them is a sentence.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet
from attrs import frozen
from tokenizers import Tokenizer  # noqa: TID253

from smolrecipe import StageError, untrusted
from smolrecipe.stage import MODEL_FOLDER, TOKENIZER_FOLDER
from smolrecipe.strict_json import printable
from smolrecipe_report.reading import Stage

SAMPLE_FILE = "row_sample.parquet"
MOST_TOKENS = 600
"""Of a row that is shown; what follows is counted."""

_MASKED = -100
"""The label of a token that no loss is taken of (Hugging Face's convention)."""
_LONGEST_SECONDS = 20.0


@frozen(kw_only=True)
class Piece:
    """Tokens that stand side by side in one document of a row, and are all learned from, or all only read."""

    text: str
    learned: bool
    document: int
    """The document's number in the row, from 0."""


@frozen(kw_only=True)
class SampleRow:
    """A row: ``title`` says which, ``left_out`` how many tokens of its end are not shown.

    ``documents`` has where each starts and ends in the row, in tokens; ``apart`` says whether tokens see their own
    document only, and is ``None`` where the row was published before packing. The last token of a row that is packed
    is no input, but learned from like others.
    """

    title: str
    pieces: Sequence[Piece]
    tokens: int
    learned: int
    left_out: int
    documents: Sequence[tuple[int, int]]
    apart: bool | None

    @property
    def caption(self) -> str:
        """The title with counts."""
        documents = f"{len(self.documents)} {'document' if len(self.documents) == 1 else 'documents'}, "
        return (
            f"{self.title}: {'' if self.apart is None else documents}{self.tokens} tokens, {self.learned} learned from"
        )

    @property
    def mask(self) -> str:
        """What its tokens see, in a sentence; none where that is not known."""
        if self.apart is None:
            return ""
        if self.apart:
            return "Each token sees those before it in its own document, whose positions count from 0."
        return "Each token sees all those before it in the row, whose positions count through."

    def heading(self, document: int) -> str:
        """What stands above a document: its number, how much of it is in the row, and the positions of its inputs."""
        start, end = self.documents[document]
        inputs = min(end, self.tokens - 1) - start
        first = 0 if self.apart else start
        positions = f"positions {first} to {first + inputs - 1}" if inputs else "no input"
        return f"document {document + 1}: {_count(end - start, 'token')}, {positions}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def has_sample(stage: Stage) -> bool:
    """Whether the stage has published some of its rows."""
    return (stage.folder / SAMPLE_FILE).is_file()


def sample_rows(stage: Stage, source: str | None = None, row: int | None = None) -> list[SampleRow]:
    """The published rows of a stage, one by default: of each source that it was trained on the first.

    A preference pair is two rows, chosen and rejected.

    Raises:
        StageError: when there are none such, or a file cannot be read.
    """
    table = _read(stage.folder / SAMPLE_FILE)
    chosen: dict[str, Mapping[str, Any]] = {}
    for line in table:
        name = str(line.get("source"))
        wanted = name == source if source is not None else not name.startswith("held_out.")
        if wanted and (line.get("row") == row if row is not None else name not in chosen) and _is_whole(line):
            chosen[name] = line
    if not chosen:
        sources = ", ".join(sorted({printable(str(line.get("source"))) for line in table})) or "none"
        raise StageError(
            f"{stage.folder / SAMPLE_FILE} has no such row; its sources: {sources}, of each the first row, and of "
            "post-training more"
        )
    tokenizer = _tokenizer(stage)
    apart = stage.summary.get("documents_apart")
    return [found for line in chosen.values() for found in _rows(line, tokenizer, apart=apart is True)]


def _read(path: Path) -> list[dict[str, Any]]:
    with untrusted(f"{path} cannot be read", seconds=_LONGEST_SECONDS):
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    return rows


def _tokenizer(stage: Stage) -> Tokenizer:
    """The tokenizer beside the stage's model, or that of a stage it is made from where it publishes no such model."""
    made_from = [stage.folder.with_name(name) / TOKENIZER_FOLDER for name in stage.parent_folders().values()]
    files = [folder / "tokenizer.json" for folder in (stage.folder / MODEL_FOLDER, *made_from)]
    path = next((file for file in files if file.is_file()), files[0])
    with untrusted(f"the tokenizer in {path} cannot be read", seconds=_LONGEST_SECONDS):
        return Tokenizer.from_file(str(path))


def _is_whole(line: Mapping[str, Any]) -> bool:
    """Whether the row was trained on: one that was left out has no tokens."""
    return any(line.get(ids) is not None for ids in ("input_ids", "chosen_ids"))


def _rows(line: Mapping[str, Any], tokenizer: Tokenizer, *, apart: bool) -> Iterator[SampleRow]:
    source, number = printable(str(line["source"])), line["row"] if isinstance(line.get("row"), int) else 0
    halves = {
        "": (line.get("input_ids"), [label != _MASKED for label in line.get("labels") or ()]),
        ", chosen": (line.get("chosen_ids"), line.get("chosen_mask")),
        ", rejected": (line.get("rejected_ids"), line.get("rejected_mask")),
    }
    packed = line.get("document_starts")
    for half, (ids, learned) in halves.items():
        if not ids:
            continue
        fits = isinstance(learned, list) and len(learned) == len(ids) and all(isinstance(one, int) for one in ids)
        starts = [0] if packed is None else packed
        if not fits or not _are_starts(starts, len(ids)):
            raise StageError(f"row {number} of '{source}' in {SAMPLE_FILE} is no row: its lists do not fit together")
        shown = min(len(ids), MOST_TOKENS)
        yield SampleRow(
            title=f"{source}, row {number}{half}",
            pieces=list(_pieces(tokenizer, ids[:shown], learned, starts)),
            tokens=len(ids),
            learned=sum(map(bool, learned)),
            left_out=len(ids) - shown,
            documents=list(pairwise([*starts, len(ids)])),
            apart=None if packed is None else apart,
        )


def _are_starts(starts: Any, length: int) -> bool:
    whole = isinstance(starts, list) and all(isinstance(start, int) for start in starts)
    return whole and starts[:1] == [0] and all(one < other for one, other in pairwise([*starts, length]))


def _pieces(tokenizer: Tokenizer, ids: Sequence[int], learned: Sequence[Any], starts: Sequence[int]) -> Iterator[Piece]:
    kinds = ((bisect_right(starts, at) - 1, bool(learned[at])) for at in range(len(ids)))
    at = 0
    for (document, is_learned), run in groupby(kinds):
        count = sum(1 for _ in run)
        with untrusted("the tokenizer does not decode a row", seconds=_LONGEST_SECONDS):
            text = tokenizer.decode(list(ids[at : at + count]), skip_special_tokens=False)
        yield Piece(text=text, learned=is_learned, document=document)
        at += count
