"""Parquet files, some rows at a time, never more than memory can hold whatever the file says of itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import pyarrow
import pyarrow.parquet

from smolrecipe import StageError
from smolrecipe_data.rows import LONGEST_ROW, columns_of
from smolrecipe_data.wording import printable

_BYTES_AT_A_TIME = 2**28
_MOST_ROWS_AT_A_TIME = 64  # more are not read any faster
_MOST_NESTED_VALUES = 2**27
_BUFFER_BYTES = 2**20


def read_parquet(
    file: BinaryIO, where: str, yields: str, columns: Mapping[str, str]
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The rows of a file with their numbers, from 0, with the columns that the shape ``yields`` needs alone.

    Pages whose writer left a checksum are held against it.

    Raises:
        StageError: for what is no Parquet file, is damaged, lacks a column, or has rows that memory cannot hold.
    """
    try:
        yield from _rows(file, where, yields, columns)
    except (StageError, OSError) as error:
        if isinstance(error, StageError) or error.errno is not None:  # without a number it is Arrow's about the file
            raise
        raise _unreadable(where, error) from None
    except (pyarrow.ArrowException, ValueError, ArithmeticError, LookupError, MemoryError, RecursionError) as error:
        raise _unreadable(where, error) from None


def _rows(
    file: BinaryIO, where: str, yields: str, columns: Mapping[str, str]
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    # Read piece by piece: Arrow's own way is to fetch a whole row group first.
    with pyarrow.parquet.ParquetFile(
        file, pre_buffer=False, buffer_size=_BUFFER_BYTES, page_checksum_verification=True
    ) as parquet:
        names = parquet.schema_arrow.names
        if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise StageError(f"{where} has the column '{printable(twice[0])}' more than once: rename one")
        wanted = list(dict.fromkeys(columns_of(names, yields, columns, where).values()))
        number = 0
        for group in range(parquet.num_row_groups):
            rows_at_a_time = _rows_at_a_time(parquet, group, wanted, where)
            for batch in parquet.iter_batches(rows_at_a_time, row_groups=[group], columns=wanted, use_threads=False):
                found = {name: batch.column(name) for name in wanted}
                _require_short(batch, where, number)
                for index in range(batch.num_rows):
                    yield number, {name: column[index].as_py() for name, column in found.items()}
                    number += 1
        if number != parquet.metadata.num_rows:
            raise StageError(f"{where} is damaged: it has {number} rows and says {parquet.metadata.num_rows}")


def _rows_at_a_time(parquet: Any, group: int, wanted: list[str], where: str) -> int:
    """As many as fit into memory even if each is as long as all that the group holds: one text may be used again and
    again, and costs the file nothing.
    """
    # What a file says of its columns is looked at once a row was read: asked for before, it ends this process where it
    # is damaged, and reading raises an error.
    next(parquet.iter_batches(1, row_groups=[group], columns=wanted, use_threads=False), None)
    largest = 1
    for index in range(len(parquet.schema.names)):
        path = parquet.schema.column(index).path
        if path not in wanted and path.partition(".")[0] not in wanted:
            continue
        column = parquet.metadata.row_group(group).column(index)
        largest = max(largest, column.total_uncompressed_size)
        if path not in wanted and column.num_values > _MOST_NESTED_VALUES:
            raise StageError(
                f"{where} has {column.num_values:,} values of '{printable(path)}' in one row group, more than memory "
                "may hold: write it with smaller row groups"
            )
    return max(1, min(_MOST_ROWS_AT_A_TIME, _BYTES_AT_A_TIME // largest))


def _require_short(batch: Any, where: str, first: int) -> None:
    if batch.nbytes <= LONGEST_ROW:
        return
    for index in range(batch.num_rows):
        if (size := batch.slice(index, 1).nbytes) > LONGEST_ROW:
            raise StageError(
                f"{where}, row {first + index}: the row has {size:,} bytes, and at most {LONGEST_ROW:,} may be in one: "
                "split what it holds into several rows"
            )


def _unreadable(where: str, error: BaseException) -> StageError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return StageError(f"{where} is not a Parquet file that can be read: {printable(reason)}")
