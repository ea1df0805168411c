"""Rows that a stage publishes: the first of each source, with labels and documents in their places."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen
from pyarrow import parquet

from smolrecipe import TokenRow
from smolrecipe_torchtitan.row_sample import SAMPLE_FILE, read_by, write_row_sample

LENGTH = 6


@frozen
class Sources:
    """Sample n is the next row of the n-th name; an earlier stage read 'unused'."""

    names: tuple[str, ...]
    start: int = 100

    def row(self, sample: int) -> TokenRow:
        tokens = np.arange(10 * sample, 10 * sample + LENGTH + 1)
        return TokenRow(tokens, np.array([0, 1, 0, 1, 2, 3]), last_starts_document=sample == 0)

    def position(self, samples: int) -> Mapping[str, int]:
        read = {name: self.names[:samples].count(name) * (LENGTH + 1) for name in dict.fromkeys(self.names)}
        return {"unused": 5, **{name: self.start + count for name, count in read.items()}}

    def held_out(self, rows: int) -> list[TokenRow]:
        return []

    def summary(self) -> Mapping[str, Any]:
        return {}


ROWS = Sources(("web", "web", "code", "web", "maths"))


def test_what_is_read_is_told_of_the_stage_alone() -> None:
    assert read_by(ROWS, 4) == {"web": 3 * (LENGTH + 1), "code": LENGTH + 1}


def test_the_first_row_of_each_source_is_kept(tmp_path: Path) -> None:
    write_row_sample(tmp_path, ROWS, 4)
    assert [path.name for path in tmp_path.iterdir()] == [SAMPLE_FILE]
    web, code = parquet.read_table(tmp_path / SAMPLE_FILE).to_pylist()
    assert (web["source"], web["row"], code["source"], code["row"]) == ("web", 0, "code", 2)
    assert web["input_ids"] == [0, 1, 2, 3, 4, 5, 6]
    assert web["labels"] == [-100, 1, -100, 3, 4, 5, -100] and web["document_starts"] == [0, 2, 6]
    assert code["labels"] == [-100, 21, -100, 23, 24, 25, 26] and code["document_starts"] == [0, 2]


def test_of_a_packer_that_tells_of_no_source_the_first_row_is_kept(tmp_path: Path) -> None:
    class Untold(Sources):
        def position(self, samples: int) -> Mapping[str, int]:
            return {}

    rows = Untold(("web", "code"))
    write_row_sample(tmp_path, rows, 2)
    (line,) = parquet.read_table(tmp_path / SAMPLE_FILE).to_pylist()
    assert (line["source"], line["row"], read_by(rows, 2)) == ("data", 0, {})


def test_it_is_the_same_to_the_last_byte_each_time(tmp_path: Path) -> None:
    contents = set()
    for _ in range(2):
        write_row_sample(tmp_path, ROWS, 5)
        contents.add((tmp_path / SAMPLE_FILE).read_bytes())
    assert len(contents) == 1
