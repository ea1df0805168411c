"""Reading the ``files`` source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from smolrecipe import StageError
from smolrecipe_data.local_files import DOCUMENTS, check, files, missing, suffix
from smolrecipe_data.read_jsonl import read_jsonl, read_jsonl_gz
from smolrecipe_data.read_parquet import read_parquet
from smolrecipe_data.rows import LONGEST_ROW, shape_rows
from smolrecipe_data.source_options import FilesOptions
from smolrecipe_data.steady_files import open_steady
from smolrecipe_data.wording import printable

_LINES = {".jsonl": read_jsonl, ".jsonl.gz": read_jsonl_gz}


def read(options: FilesOptions) -> Iterator[Mapping[str, Any]]:
    """The rows of all files, one file after the other.

    Raises:
        StageError: for a file that is gone, is none, cannot be read or is changed while it is read, and for a row that
            lacks a column or does not hold what its shape needs.
    """
    for problem in (*check(options), *missing(options)):
        raise StageError(f"source 'files': {problem}")
    left = options.rows
    for path in files(options):
        with open_steady(path) as file:
            for row in _rows(file, suffix(path), printable(path), options, left):
                yield row
                if left is not None:
                    left -= 1
        if left == 0:
            return


def _rows(
    file: BinaryIO, ending: str, where: str, options: FilesOptions, limit: int | None
) -> Iterator[Mapping[str, Any]]:
    if ending in DOCUMENTS:
        yield {"text": _whole(file, where)}
    elif ending == ".parquet":
        records = read_parquet(file, where, options.yields, options.columns)
        yield from shape_rows(
            records, options.yields, options.columns, limit, place=lambda number: f"{where}, row {number}"
        )
    else:
        yield from shape_rows(
            _LINES[ending](file, where),
            options.yields,
            options.columns,
            limit,
            place=lambda number: f"{where}:{number}",
        )


def _whole(file: BinaryIO, where: str) -> str:
    content = file.read(LONGEST_ROW + 1)
    if len(content) > LONGEST_ROW:
        raise StageError(
            f"{where} has more than {LONGEST_ROW:,} bytes, and is read as one document: split it, or write its "
            "documents as JSON lines"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise StageError(f"{where} is not UTF-8: {error.reason} at byte {error.start}") from None
