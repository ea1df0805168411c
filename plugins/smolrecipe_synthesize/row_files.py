"""The rows that a stage publishes, as JSON lines: written whole or not at all, read by the source ``synthesized``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from smolrecipe import StageError
from smolrecipe.durable import discard, sync_folder
from smolrecipe.stage import ROWS_FOLDER
from smolrecipe_synthesize.options import SynthesizedOptions

ROWS_IN_A_FILE = 100_000

_KEYS = {"chat": "messages", "preference": "chosen"}


def write_rows(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write ``rows/00000.jsonl`` and so on into a stage's folder, in place of what an attempt before has written."""
    place, partial = folder / ROWS_FOLDER, folder / f".{ROWS_FOLDER}.partial"
    discard(partial)
    discard(place)
    partial.mkdir()
    left = iter(rows)
    number = 0
    while True:
        some = list(islice(left, 1))
        if not some and number:
            break
        with (partial / f"{number:05d}.jsonl").open("wb") as file:
            for row in (*some, *islice(left, ROWS_IN_A_FILE - 1)):
                file.write(json.dumps(row).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        number += 1
    partial.rename(place)
    sync_folder(folder)


def read(options: SynthesizedOptions) -> Iterator[Mapping[str, Any]]:
    """The rows of a published stage, see ``smolrecipe_synthesize``."""
    root = options.from_.root
    if root is None:
        raise StageError(f"what stage '{options.from_}' made is read in the stages that use it, not outside of a run")
    files = sorted((root / ROWS_FOLDER).glob("*.jsonl"))
    if not files:
        raise StageError(f"stage '{options.from_}' published no '{ROWS_FOLDER}' ({root})")
    left = options.rows
    for file in files:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if left == 0:
                    return
                yield _row(line, f"{file}:{number}", options)
                left = None if left is None else left - 1


def _row(line: bytes, where: str, options: SynthesizedOptions) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise StageError(f"{where} is no JSON ({error})") from None
    if not isinstance(row, dict) or _KEYS[options.yields] not in row:
        raise StageError(
            f"{where} is no {options.yields} row: 'yields' of source 'synthesized' does not fit '{options.from_}'"
        )
    return row
