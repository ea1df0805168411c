"""Some of the rows of a stage, published as they were trained: for people to look at and for ``verify`` to compare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

SAMPLE_FILE = "row_sample.parquet"
"""Columns: ``source``, ``row`` (counted from 0 as the source yields them) and those that the rows are trained from,
null where a row was left out."""

FIRST_ROWS = 32
LAST_ROW = 4096


def is_sampled(number: int) -> bool:
    """Whether row ``number`` of a source is kept: the first 32, then the 64th, 128th, ... 4096th."""
    following = number + 1
    return number < FIRST_ROWS or (following <= LAST_ROW and following & number == 0)


class RowSample:
    """Collects the sampled rows of all sources.

    Args:
        columns: the names of the rows' columns, each a list of integers.
    """

    def __init__(self, columns: Iterable[str]) -> None:
        self._columns = tuple(columns)
        self._rows: list[dict[str, Any]] = []

    def add(self, source: str, number: int, row: Mapping[str, Sequence[int]] | None) -> None:
        """Keep a row if it is one of the sample."""
        if is_sampled(number):
            values = {column: None if row is None else row[column] for column in self._columns}
            self._rows.append({"source": source, "row": number, **values})

    def write(self, folder: Path) -> None:
        """Write the sample into a folder."""
        lists = [(column, pyarrow.list_(pyarrow.int32())) for column in self._columns]
        schema = pyarrow.schema([("source", pyarrow.string()), ("row", pyarrow.int64()), *lists])
        parquet.write_table(pyarrow.Table.from_pylist(self._rows, schema), folder / SAMPLE_FILE, compression="zstd")


def read_sample(folder: Path) -> dict[str, dict[int, Mapping[str, Any]]]:
    """The sampled rows of an artifact: source -> row number -> columns."""
    found: dict[str, dict[int, Mapping[str, Any]]] = {}
    for row in parquet.read_table(folder / SAMPLE_FILE).to_pylist():
        found.setdefault(row["source"], {})[row["row"]] = row
    return found
