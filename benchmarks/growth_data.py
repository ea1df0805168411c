"""How a mixture grows with its sources and with their documents, and what a rank's rows cost by the number of ranks.

``growth.py`` runs this. Token files are written by datatrove's ``TokenizedFile``, which ``tokenize`` writes them with.
Each measurement has a process of its own, that reads files which lie in memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

from measuring import memory_from_now_on, peak_memory

LENGTH = 4096
VOCABULARY = 2048
SOURCES = (1, 3, 10, 30, 100, 200, 500, 1000)
DOCUMENTS = (10**3, 10**4, 10**5, 10**6, 2 * 10**6, 5 * 10**6, 10**7)
RANKS = (1, 8, 64, 512, 1024, 2048, 4096)
OF_MANY = {"documents": 100, "length": 500}
"""Each of many sources: twelve rows."""
SHORT = 8
"""Tokens of a document where documents are counted, so that ten million of them are 160 MB."""
FAR = 10**9 + 1
ROWS = 400
MICRO_BATCH = 4
WEIGHTS = {"1 : 2": lambda number: 1 + number % 7, "9,999 : 1": lambda number: 9999 if number == 0 else 1}


def sources() -> dict[int, dict[str, float]]:
    """What a mixture takes, by the number of its sources."""
    with tempfile.TemporaryDirectory() as folder:
        write_source(Path(folder) / "warm" / "source-0", 1000)
        for number in range(max(SOURCES)):
            write_source(Path(folder) / f"source-{number}", **OF_MANY)
        return {number: _measured("mixture", folder, number) for number in SOURCES}


def documents() -> dict[int, dict[str, float]]:
    """What a mixture of one source takes, by the number of its documents."""
    found = {}
    for number in DOCUMENTS:
        with tempfile.TemporaryDirectory() as folder:
            write_source(Path(folder) / "warm" / "source-0", 1000)
            write_source(Path(folder) / "source-0", number)
            found[number] = _measured("mixture", folder, 1)
    return found


def ranks_rows() -> dict[int, dict[str, float]]:
    """What the last rank takes to find and read its rows of a step, by the number of ranks."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(2):
            write_source(Path(folder) / f"source-{number}", 20_000, 500)
        return {int(number): found for number, found in _measured("ranks", folder, 2).items()}


def write_source(folder: Path, documents: int, length: int = SHORT) -> None:
    """A source of so many documents of ``length`` tokens."""
    import numpy as np
    from datatrove.pipeline.tokens.tokenizer import TokenizedFile

    (folder / "train").mkdir(parents=True)
    file = TokenizedFile(
        str(folder / "train"),
        "00000_00000.ds",
        tokenizer_name_or_path="benchmark",
        save_final_metadata=True,
        token_size=2,
    )
    numbers = np.random.default_rng(0)
    for first in range(0, documents, 10**5):
        here = min(10**5, documents - first)
        tokens = numbers.integers(VOCABULARY, size=here * length, dtype=np.uint16)
        file.write_bytes(tokens.tobytes(), range(length, here * length + 1, length))
    file.close()


def _measured(what: str, *arguments: Any) -> dict[str, Any]:
    command = [sys.executable, __file__, what, *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout)


def _open(folder: str, sources: int, weight: Callable[[int], float] = WEIGHTS["1 : 2"]) -> Any:
    from smolrecipe_data.mixture import Mixture

    names = {f"source-{number}": weight(number) for number in range(sources)}
    folders = {name: Path(folder) / name for name in names}
    return Mixture(folders, names, sequence_length=LENGTH, seed=0, vocab_size=VOCABULARY)


def _mixture(folder: str, sources: int) -> dict[str, float]:
    """Opening, the first row near and far, then rows one after the other near, and at random over everything."""
    import numpy as np

    _open(f"{folder}/warm", 1).row(0)  # imports, and what numpy does once
    before, mapped_before = memory_from_now_on(), _mapped()
    opening = [_milliseconds(lambda: _open(folder, sources)) for _ in range(3)]
    mixture = _open(folder, sources)
    first = {place: _milliseconds(lambda place=place: mixture.row(place)) for place in (0, FAR)}
    for sample in range(2 * sources):  # nearly every source has drawn the order of its first pass
        mixture.row(sample)
    near, numbers = count(2 * sources), np.random.default_rng(0)
    found = {
        "opening, ms": median(opening),
        "first row, ms": first[0],
        "first row far away, ms": first[FAR],
        "row near, ms": _each(lambda: mixture.row(next(near))),
        "row anywhere, ms": _each(lambda: mixture.row(int(numbers.integers(FAR)))),
        "position, ms": _milliseconds(lambda: mixture.position(FAR)),
    }
    mapped = _mapped() - mapped_before
    return {**found, "memory besides, MiB": peak_memory() - before - mapped, "files mapped, MiB": mapped}


def _ranks(folder: str, sources: int) -> dict[str, dict[str, float]]:
    from smolrecipe_torchtitan.samples import SampleLoader

    return {
        str(ranks): {
            f"rows of a step, shares {name}, ms": _of_last(SampleLoader, _open(folder, sources, weight), ranks)
            for name, weight in WEIGHTS.items()
        }
        for ranks in RANKS
    }


def _of_last(loader: Any, rows: Any, ranks: int) -> float:
    """What a batch of the last rank's takes."""
    config = loader.Config(rows=lambda: rows)
    batches = iter(loader(config, dp_world_size=ranks, dp_rank=ranks - 1, local_batch_size=MICRO_BATCH))
    for _ in range(20):
        next(batches)
    return _each(lambda: next(batches))


def _each(work: Callable[[], object], times: int = ROWS) -> float:
    """Milliseconds of processor each, the mean: some rows take more than others, and all are paid for."""

    def repeat() -> None:
        for _ in range(times):
            work()

    return _milliseconds(repeat) / times


def _mapped() -> float:
    """MiB of files that this process has looked at: the system takes them back when it needs them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssFile")) / 1024


def _milliseconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return 1e3 * (time.process_time() - start)


if __name__ == "__main__":
    print(json.dumps({"mixture": _mixture, "ranks": _ranks}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))))
