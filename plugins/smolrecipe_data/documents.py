"""Documents on their way from a source to token files: which split and file each goes to, and Parquet in between.

A source is read once, by one process; the Parquet files are what datatrove's workers then read side by side, and what a
stage that was interrupted goes on from.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import pyarrow
import pyarrow.parquet
from attrs import asdict, define, field

from smolrecipe import StageError

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, ...] = ("train", "held_out")

_HASH_RANGE = 2**64
_FLUSH_CHARACTERS = 2**20
_SCHEMA = pyarrow.schema([("text", pyarrow.large_string())])
_COUNTS_FILE = "counts.json"


@define
class DocumentCounts:
    """What was read of a source: documents by split, what had no text, and what was no valid Unicode."""

    train: int = 0
    held_out: int = 0
    characters: int = 0
    empty: int = 0
    """Documents without text, which are left out."""
    repaired: int = 0
    """Documents with lone surrogates, which no encoding has; each became a question mark."""


def split_of(text: str, held_out: float) -> Split:
    """The split of a document: held out with probability ``held_out``, by its content alone."""
    digest = blake2b(text.encode(), digest_size=8, person=b"held_out").digest()
    return "held_out" if int.from_bytes(digest, "big") < held_out * _HASH_RANGE else "train"


def file_of(text: str, files: int, seed: int) -> int:
    """The number of the training file that a document is dealt to."""
    digest = blake2b(text.encode(), digest_size=8, person=b"file", key=seed.to_bytes(8, "big")).digest()
    return int.from_bytes(digest, "big") % files


def collect(
    rows: Iterable[Mapping[str, Any]],
    folder: Path,
    *,
    where: str,
    held_out: float,
    files: int,
    seed: int,
    on_documents: Callable[[DocumentCounts], None],
) -> DocumentCounts:
    """Write the source's documents to ``folder/<split>/<number>.parquet``, unless an earlier attempt finished that.

    ``on_documents`` is told the counts after each document, ``where`` names the source in messages. Held-out documents
    make one file.

    Raises:
        StageError: for a row that is not text.
    """
    done = folder / _COUNTS_FILE
    if done.exists():
        return DocumentCounts(**json.loads(done.read_text()))
    shutil.rmtree(folder, ignore_errors=True)
    counts = DocumentCounts()
    writers: dict[tuple[Split, int], _Writer] = {}
    try:
        for row in rows:
            text = row.get("text")
            if not isinstance(text, str):
                raise StageError(
                    f"{where}: a row has no 'text' to tokenise; it has {', '.join(sorted(row)) or 'nothing'}"
                )
            if not text:
                counts.empty += 1
                continue
            text = _valid(text, counts)
            split = split_of(text, held_out)
            number = file_of(text, files, seed) if split == "train" else 0
            if (split, number) not in writers:
                writers[split, number] = _Writer(folder / split / f"{number:05d}.parquet")
            writers[split, number].add(text)
            counts.characters += len(text)
            setattr(counts, split, getattr(counts, split) + 1)
            on_documents(counts)
    finally:
        for writer in writers.values():
            writer.close()
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = done.with_suffix(".part")
    unfinished.write_text(json.dumps(asdict(counts)))
    unfinished.rename(done)
    return counts


def _valid(text: str, counts: DocumentCounts) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        counts.repaired += 1
        return text.encode(errors="replace").decode()
    return text


@define
class _Writer:
    """One Parquet file of texts, written a megabyte at a time."""

    path: Path
    _texts: list[str] = field(factory=list, init=False)
    _characters: int = field(default=0, init=False)
    _file: pyarrow.parquet.ParquetWriter | None = field(default=None, init=False)

    def add(self, text: str) -> None:
        self._texts.append(text)
        self._characters += len(text)
        if self._characters >= _FLUSH_CHARACTERS:
            self._flush()

    def close(self) -> None:
        self._flush()
        if self._file is not None:
            self._file.close()

    def _flush(self) -> None:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = pyarrow.parquet.ParquetWriter(self.path, _SCHEMA)
        self._file.write_table(pyarrow.table({"text": self._texts}, schema=_SCHEMA))
        self._texts, self._characters = [], 0
