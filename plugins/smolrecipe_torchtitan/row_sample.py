"""What a stage has read of each source, and a row of each as it was trained: to look at, and for ``verify``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from pyarrow import parquet

from smolrecipe import TokenRow, TokenRows
from smolrecipe_torchtitan.samples import IGNORE_INDEX, labels_of

SAMPLE_FILE = "row_sample.parquet"
"""Columns: ``source``, ``row`` (the sample's number in the stage, from 0), ``input_ids`` (the last is only a label),
``labels`` (each at its own token's place, -100 where no loss is taken), ``document_starts`` (the places at which a
document starts; the first piece of a row starts at 0 whether or not it is whole)."""

MOST_SEARCHED = 4096
"""Samples among which the first of each source is looked for."""


def read_by(rows: TokenRows, samples: int) -> dict[str, int]:
    """How far each source is read by the first ``samples`` samples, in what the packer counts: tokens, of a mixture."""
    return _moved(rows.position(0), rows.position(samples))


def row_sample(rows: TokenRows, samples: int) -> list[dict[str, Any]]:
    """The first row of each source that has one among the first samples of a stage."""
    left = set(read_by(rows, samples))
    found = []
    before = rows.position(0)
    for number in range(min(samples, MOST_SEARCHED)):
        after = rows.position(number + 1)
        sources = _moved(before, after)
        before = after
        if left & sources.keys() or not number:
            found.append({"source": name_of(sources), "row": number, **columns_of(rows.row(number))})
            left -= sources.keys()
        if not left:
            break
    return found


def columns_of(row: TokenRow) -> dict[str, list[int]]:
    """A row's columns in the published sample."""
    starts = np.flatnonzero(np.append(row.positions == 0, row.last_starts_document))
    return {
        "input_ids": row.tokens.tolist(),
        "labels": [IGNORE_INDEX, *labels_of(row).tolist()],
        "document_starts": starts.tolist(),
    }


def name_of(sources: Iterable[str]) -> str:
    """What the sources that a row was read from are called together; a packer need not tell of any."""
    return " + ".join(sources) or "data"


def write_row_sample(folder: Path, rows: TokenRows, samples: int) -> None:
    """Write the sample into a stage's folder."""
    lists = [(name, pyarrow.list_(pyarrow.int32())) for name in ("input_ids", "labels", "document_starts")]
    schema = pyarrow.schema([("source", pyarrow.string()), ("row", pyarrow.int64()), *lists])
    beside = folder / f".{SAMPLE_FILE}.new"
    parquet.write_table(pyarrow.Table.from_pylist(row_sample(rows, samples), schema), beside, compression="zstd")
    beside.replace(folder / SAMPLE_FILE)


def _moved(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    return {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}
