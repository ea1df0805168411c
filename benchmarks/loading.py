"""Rows for training: ours against datatrove's own data set (nanotron's) and torchtitan's loader.

    python benchmarks/loading.py

One core each, from the same text with the same tokenizer: rows of 4,096 tokens with the positions that restart at
documents, ours mixed from two sources and in random order of documents. nanotron's loader reads datatrove's token files
through ``DatatroveFolderDataset``, which is made to be read in sequence; torchtitan's tokenises text as it goes. Then
the time to find sample 1 and sample 1,000,000,000.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from statistics import median

from measuring import by_turns, keep, spread

LENGTH = 4096
SECONDS = 2.0
"""That each way reads in each turn."""
GOAL = 10 * 112_000
"""Ten times what eight H100s consume: 14,000 tokens per second each (SmolLM3's published rate)."""

RECIPE = """\
name: loading
launcher: {use: local}
stages:
  tokenizer:
    use: train_tokenizer
    vocab_size: 2048
    data: {prose: {use: python_docs, rows: 400}, code: {use: python_code, rows: 60}}
  tokens:
    use: tokenize
    tokenizer: tokenizer
    sources: {prose: {use: python_docs}, code: {use: python_code, rows: 400}}
    held_out: 0.01
    files: 2
    workers: 1
"""


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "loading.yaml").write_text(RECIPE)
        command = [sys.executable, "-m", "smolrecipe", "run", "loading.yaml"]
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (tokens,) = folder.glob("runs/loading/tokens-*")
        (tokenizer,) = folder.glob("runs/loading/tokenizer-*")
        ways = {
            "smolrecipe mixture": _ours(tokens),
            "smolrecipe mixture, with labels, as tensors": _batches(tokens),
            "datatrove DatatroveFolderDataset, in sequence": _datatrove(tokens, at_random=False),
            "datatrove DatatroveFolderDataset, at random": _datatrove(tokens, at_random=True),
            "torchtitan HuggingFaceTextDataLoader": _torchtitan(tokenizer),
        }
        found = by_turns(ways, rounds=5)
        ours = median(found["smolrecipe mixture"])
        rows = [
            (name, spread(values), ours / median(values), GOAL if name.startswith("smolrecipe") else "")
            for name, values in found.items()
        ]
        keep(
            "loading",
            f"Rows of {LENGTH:,} tokens, one core",
            ("loader", "tokens per second: median (range)", "ours is faster by", "goal"),
            rows,
        )
        _seeking(tokens)


def _ours(tokens: Path) -> Callable[[], float]:
    mixture = _mixture(tokens)
    samples = iter(range(10**9))
    return lambda: _rate(lambda: mixture.row(next(samples)))


def _batches(tokens: Path) -> Callable[[], float]:
    from smolrecipe_torchtitan.samples import collate

    mixture = _mixture(tokens)
    samples = iter(range(10**9))
    return lambda: _rate(lambda: collate([mixture.row(next(samples))], restart_positions=True))


def _mixture(tokens: Path):
    from smolrecipe_data.mixture import Mixture

    sources = {name: tokens / "tokens" / name for name in ("prose", "code")}
    return Mixture(sources, {"prose": 0.7, "code": 0.3}, sequence_length=LENGTH, seed=0)


def _datatrove(tokens: Path, *, at_random: bool) -> Callable[[], float]:
    from datatrove.utils.dataset import DatatroveFolderDataset
    from numpy.random import default_rng

    data = DatatroveFolderDataset(
        str(tokens / "tokens" / "prose" / "train"),
        seq_len=LENGTH,
        filename_pattern="*.ds",
        recursive=False,
        token_size=2,
        return_positions=True,
        shuffle=True,
        seed=0,
    )
    numbers, sequence = default_rng(0), cycle(range(len(data)))
    return lambda: _rate(lambda: data[int(numbers.integers(len(data))) if at_random else next(sequence)])


def _torchtitan(tokenizer: Path) -> Callable[[], float]:
    from datasets import Dataset
    from torchtitan.components.tokenizer import HuggingFaceTokenizer
    from torchtitan.hf_datasets import DatasetConfig
    from torchtitan.hf_datasets.text_datasets import DATASETS, HuggingFaceTextDataLoader

    from smolrecipe_data.python_library import read_docs
    from smolrecipe_data.source_options import PythonDocsOptions

    text = [{"text": row["text"]} for row in read_docs(PythonDocsOptions())]
    DATASETS["local"] = DatasetConfig(
        path="local", loader=lambda path: Dataset.from_list(text), sample_processor=lambda sample: sample["text"]
    )
    config = HuggingFaceTextDataLoader.Config(dataset="local", infinite=True)
    loader = config.build(
        dp_world_size=1,
        dp_rank=0,
        tokenizer=HuggingFaceTokenizer.Config().build(tokenizer_path=str(tokenizer / "tokenizer")),
        seq_len=LENGTH,
        local_batch_size=1,
        snapshot_every_n_steps=None,
    )
    rows = iter(loader)
    return lambda: _rate(lambda: next(rows))


def _rate(read: Callable[[], object]) -> float:
    """Tokens per second of processor over some seconds of it: what is read lies in memory."""
    start, rows = time.process_time(), 0
    while (spent := time.process_time() - start) < SECONDS:
        read()
        rows += 1
    return rows * LENGTH / spent


def _seeking(tokens: Path) -> None:
    """The first row that a process reads, near and far: each in a mixture opened anew."""
    rows = []
    for sample in (1, 10**3, 10**6, 10**9):
        seconds = []
        for _ in range(15):
            mixture = _mixture(tokens)
            start = time.perf_counter()
            mixture.row(sample)
            seconds.append(time.perf_counter() - start)
        rows.append((f"{sample:,}", 1e3 * median(seconds)))
    keep("seeking", "Time to find a sample in a mixture just opened", ("sample", "milliseconds"), rows)


if __name__ == "__main__":
    main()
