"""Documents on their way from a source to token files: which split and file each goes to, and Parquet in between.

A source is read once, by one process; the Parquet files are what datatrove's workers then read side by side, and what a
stage that was interrupted goes on from.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy
import pyarrow
import pyarrow.parquet
from attrs import asdict, define, field

from smolrecipe import StageError
from smolrecipe_data.rows import LONGEST_ROW, valid_unicode
from smolrecipe_data.seals import damage, describe, read_sealed, write_sealed
from smolrecipe_data.wording import named

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
    escaped: int = 0
    """Documents in which a control token is written (``<|end_of_text|>``): they hold its letters, not the token."""


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
    control_tokens: Sequence[str],
    on_documents: Callable[[DocumentCounts], None],
) -> DocumentCounts:
    """Write the source's documents to ``folder/<split>/<number>.parquet``, unless an earlier attempt finished that.

    ``on_documents`` is told the counts after each document, ``where`` names the source in messages. Held-out documents
    make one file.

    Raises:
        StageError: for a row that is not text, or too much of it for one document.
    """
    done = folder / _COUNTS_FILE
    sealed = read_sealed(done)
    if sealed is not None and not damage(folder, sealed["files"]) and _parquet_files(folder) == set(sealed["files"]):
        return DocumentCounts(**sealed["counts"])
    if folder.exists():
        shutil.rmtree(folder)
    counts = DocumentCounts()
    controls = re.compile("|".join(map(re.escape, control_tokens))) if control_tokens else None
    writers: dict[tuple[Split, int], _Writer] = {}
    try:
        for row in rows:
            text = _text(row, where)
            if not text:
                counts.empty += 1
                continue
            valid = valid_unicode(text)
            counts.repaired += valid != text
            counts.escaped += controls is not None and controls.search(valid) is not None
            split = split_of(valid, held_out)
            number = file_of(valid, files, seed) if split == "train" else 0
            if (split, number) not in writers:
                writers[split, number] = _Writer(folder / split / f"{number:05d}.parquet")
            writers[split, number].add(valid)
            counts.characters += len(valid)
            setattr(counts, split, getattr(counts, split) + 1)
            on_documents(counts)
        for writer in writers.values():
            writer.finish()
    finally:
        for writer in writers.values():
            writer.close()
    written = describe(folder, [writer.path for writer in writers.values()])
    write_sealed(done, {"counts": asdict(counts), "files": written})
    return counts


def _parquet_files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet")}


def _text(row: Mapping[str, Any], where: str) -> str:
    text = row.get("text")
    if not isinstance(text, str):
        raise StageError(f"{where}: a row has no 'text' to tokenise; it has {named(row)}")
    if len(text) > LONGEST_ROW:
        raise StageError(
            f"{where}: a document has {len(text):,} characters, and at most {LONGEST_ROW:,} can be tokenised at once: "
            "split it"
        )
    return text


@define
class _Writer:
    """One Parquet file of texts, written a megabyte at a time, whole after ``finish``."""

    path: Path
    _texts: list[str] = field(factory=list, init=False)
    _characters: int = field(default=0, init=False)
    _file: BinaryIO | None = field(default=None, init=False)
    _parquet: pyarrow.parquet.ParquetWriter | None = field(default=None, init=False)

    def add(self, text: str) -> None:
        self._texts.append(text)
        self._characters += len(text)
        if self._characters >= _FLUSH_CHARACTERS:
            self._flush()

    def finish(self) -> None:
        self._flush()
        if self._parquet is not None:
            self._parquet.close()

    def close(self) -> None:
        """Close the file, whether it is whole or not."""
        if self._parquet is not None:
            self._parquet.is_open = False  # or it would write the end of a file that lacks its middle, once forgotten
        if self._file is not None:
            self._file.close()

    def _flush(self) -> None:
        if self._parquet is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("wb")
            self._parquet = pyarrow.parquet.ParquetWriter(self._file, _SCHEMA)
        self._parquet.write_table(_table(self._texts))
        self._texts, self._characters = [], 0


def _table(texts: Sequence[str]) -> pyarrow.Table:
    """The texts as a table, from its buffers: given a list, pyarrow imports pandas to ask whether it is one of its own,
    which takes a second."""
    encoded = [text.encode() for text in texts]
    ends = numpy.cumsum([0, *map(len, encoded)], dtype=numpy.int64)
    column = pyarrow.LargeStringArray.from_buffers(
        len(encoded), pyarrow.py_buffer(ends), pyarrow.py_buffer(b"".join(encoded))
    )
    return pyarrow.Table.from_arrays([column], schema=_SCHEMA)
