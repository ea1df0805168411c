"""Packing conversations into rows, best fit decreasing: ours against TRL's ``pack_dataset``.

    python benchmarks/packing.py

Log-normal lengths, as those of conversations are: short, mixed and long ones, on one thread. Both read a data set that
lies shuffled in memory, as after tokenising, and write a file. "Alone" is the packing of all rows in one table, without
the data set around it. Then memory, by the number of conversations, of a process of its own each.
"""

from __future__ import annotations

import json
import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa

from measuring import by_turns, keep, memory_from_now_on, peak_memory

LENGTH = 4096
LONGEST = 16384
KINDS = {"short": (100_000, 100, 0.7), "mixed": (30_000, 600, 0.9), "long": (8_000, 3_000, 1.0)}
"""Conversations, the median of their lengths in tokens, the deviation of its logarithm."""
GROWTH = (1_000, 10_000, 100_000, 1_000_000)
GOAL = 1.0


def main() -> None:
    """Measure and print."""
    rows = []
    for kind, shape in KINDS.items():
        table = _conversations(*shape)
        fill: dict[str, float] = {}
        with tempfile.TemporaryDirectory() as folder:
            found = by_turns(_ways(table, Path(folder), fill), rounds=5)
        for name, way in (("alone", "table"), ("data set", "data set")):
            ours, theirs = median(found[f"ours, {way}"]), median(found[f"TRL, {way}"])
            filled = [f"{fill[f'{who}, {way}']:.4f}" for who in ("ours", "TRL")]
            rows.append((kind, name, shape[0], ours, theirs, ours / theirs, GOAL, *filled))
    head = ("lengths", "of", "conversations", "s", "TRL's s", "ratio", "goal", "fill", "TRL's fill")
    keep("packing", f"Packing into rows of {LENGTH:,} tokens", head, rows)
    growth = []
    for count in GROWTH:
        command = [sys.executable, __file__, str(count)]
        seconds, memory = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        growth.append((count, seconds, 1e6 * seconds / count, memory))
    head = ("conversations", "s", "microseconds each", "MiB more than the rows")
    keep("packing-growth", "Packing by the number of conversations, 100 tokens each in the middle", head, growth)


def _conversations(count: int, middle: int, deviation: float) -> pa.Table:
    lengths = np.exp(np.random.default_rng(0).normal(np.log(middle), deviation, count)).astype(np.int32)
    lengths = np.clip(lengths, 1, LONGEST).clip(max=LENGTH)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    tokens = pa.array(np.arange(lengths.sum(), dtype=np.int32))
    column = pa.ListArray.from_arrays(offsets, tokens)
    return pa.table({"input_ids": column, "labels": column})


def _ways(table: pa.Table, folder: Path, fill: dict[str, float]) -> dict[str, Callable[[], float]]:
    from datasets import Dataset
    from trl import pack_dataset
    from trl.data_utils import _pack_bfd

    from smolrecipe_trl.best_fit import pack_table
    from smolrecipe_trl.packing import pack_rows

    tokens = len(table["input_ids"].combine_chunks().flatten())
    rows = Dataset(table).shuffle(seed=0, keep_in_memory=True)
    files = iter(range(10**6))

    def measure(name: str, work: Callable[[], object]) -> float:
        start = time.process_time()
        made = work()
        spent = time.process_time() - start
        fill[name] = tokens / (len(made) * LENGTH)
        return spent

    def path() -> str:
        return str(folder / f"{next(files)}.arrow")

    ways: dict[str, Callable[[], object]] = {
        "ours, table": lambda: pack_table(table, LENGTH),
        "TRL, table": lambda: _pack_bfd(table, LENGTH),
        "ours, data set": lambda: pack_rows(rows, LENGTH, path()),
        "TRL, data set": lambda: pack_dataset(rows, LENGTH, "bfd", {"cache_file_name": path()}),
    }
    return {name: lambda name=name, work=work: measure(name, work) for name, work in ways.items()}


def _grow(count: int) -> None:
    from datasets import Dataset

    from smolrecipe_trl.packing import pack_rows

    with tempfile.TemporaryDirectory() as folder:
        pack_rows(Dataset(_conversations(1000, 100, 0.7)), LENGTH, f"{folder}/warm.arrow")
        rows = Dataset(_conversations(count, 100, 0.7)).shuffle(seed=0, keep_in_memory=True)
        before, start = memory_from_now_on(), time.process_time()
        pack_rows(rows, LENGTH, f"{folder}/packed.arrow")
        print(json.dumps((time.process_time() - start, peak_memory() - before)))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _grow(int(sys.argv[1]))
    else:
        main()
