"""Reading the ``files`` source."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from smolrecipe import StageError
from smolrecipe_data.local_files import check, files, missing, suffix
from smolrecipe_data.rows import shape_rows
from smolrecipe_data.source_options import FilesOptions

_ROWS_AT_A_TIME = 1000


def read(options: FilesOptions) -> Iterator[Mapping[str, Any]]:
    """The rows of all files, one file after the other.

    Raises:
        StageError: for a file that is gone, cannot be read or lacks a column.
    """
    for problem in (*check(options), *missing(options)):
        raise StageError(f"source 'files': {problem}")
    left = options.rows
    for path in files(options):
        records = _READERS[suffix(path)](path)
        text_only = suffix(path) in (".txt", ".md")
        for row in shape_rows(records, options.yields, {} if text_only else options.columns, left, str(path)):
            yield row
            if left is not None:
                left -= 1
        if left == 0:
            return


def _parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_ROWS_AT_A_TIME):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise StageError(f"{path} is not a Parquet file that can be read: {error}") from None


def _jsonl(path: Path) -> Iterator[Mapping[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise StageError(f"{path}:{number}: a line must hold a JSON object")
                yield record
        except ValueError as error:
            raise StageError(f"{path}: not JSON lines in UTF-8, after line {number}: {error}") from None


def _whole(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        yield {"text": path.read_text(encoding="utf-8")}
    except UnicodeDecodeError as error:
        raise StageError(f"{path} is not UTF-8: {error}") from None


_READERS: Mapping[str, Callable[[Path], Iterator[Mapping[str, Any]]]] = {
    ".parquet": _parquet,
    ".jsonl": _jsonl,
    ".jsonl.gz": _jsonl,
    ".txt": _whole,
    ".md": _whole,
}
