"""A step of our ``pretrain`` against one of plain torchtitan's trainer, on the same rows.

    python benchmarks/pretraining.py [1M] [100M]

The same decoder from the same parts of torchtitan, in float32 on one CPU thread: one of about a million parameters, one
of about a hundred million. Attention is causal over the whole row in both: plain torchtitan masks documents on GPUs
alone. Ours is the stage that ``smolrecipe run`` runs, with its metrics, memory and finite checks; torchtitan logs every
step as ours does, and reads its rows, labels and all, from one array.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from measuring import COMPARED, compared, keep, named
from our_runs import ONE_THREAD, run, run_way
from turns import Way, take_turns, total_steps

GOAL = 1.02

SIZES: dict[str, dict[str, Any]] = {
    "1M": {
        "size": {
            "hidden_size": 128, "num_layers": 4, "num_heads": 8, "num_kv_heads": 2, "intermediate_size": 384,
            "vocab_size": 2048,
        },
        "length": 128,
        "batch": 4,
        "turns": {"rounds": 30, "steps": 5, "dropped": 3},
    },
    "100M": {
        "size": {
            "hidden_size": 640, "num_layers": 13, "num_heads": 10, "num_kv_heads": 5, "intermediate_size": 2560,
            "vocab_size": 32768,
        },
        "length": 32,
        "batch": 1,
        "turns": {"rounds": 20, "steps": 1, "dropped": 2},
    },
}  # fmt: skip

RECIPE = """\
name: pretraining
launcher: {{use: local}}
trackers: [{{use: turns, stage: train}}]
stages:
  tokenizer:
    use: train_tokenizer
    vocab_size: 2048
    data: {{prose: {{use: python_docs, rows: 400}}}}
  tokens:
    use: tokenize
    tokenizer: tokenizer
    sources: {{prose: {{use: python_docs, rows: 2000}}}}
    held_out: 0.01
    files: 1
    workers: 1
  train:
    use: pretrain
    model:
      decoder:
        use: decoder
        hidden_size: {hidden_size}
        num_layers: {num_layers}
        num_heads: {num_heads}
        intermediate_size: {intermediate_size}
        vocab_size: {vocab_size}
      attention: {{use: gqa, num_heads: {num_heads}, num_kv_heads: {num_kv_heads}}}
    tokenizer: tokenizer
    data: {{use: mixture, from: [tokens], weights: {{prose: 1}}}}
    steps: {steps}
    sequence_length: {length}
    global_batch: {batch}
    micro_batch: {batch}
    optimizer: {{use: adamw, lr: 1.0e-3}}
    schedule: {{use: linear, warmup_steps: 10}}
    precision: float32
    held_out_rows: 0
    checkpoint_every: 100000
"""


def main() -> None:
    """Measure and print."""
    rows, details = [], {}
    for name in (names := sys.argv[1:] or list(SIZES)):
        with tempfile.TemporaryDirectory() as temporary:
            turns = SIZES[name]["turns"]
            found = take_turns(ways_of(Path(temporary), SIZES[name], total_steps(**turns)), **turns)
        rows += compared(name, found, ours="smolrecipe", goal=GOAL)
        details[name] = {**SIZES[name], "turns": found}
    title = "A step of pretraining, one thread"
    keep(named("pretraining", names, SIZES), title, COMPARED, rows, details=details)


def ways_of(folder: Path, work: dict[str, Any], steps: int) -> dict[str, Way]:
    """Both trainings of so many steps, with what they need in ``folder``."""
    recipe = folder / "pretraining.yaml"
    recipe.write_text(RECIPE.format(steps=steps, length=work["length"], batch=work["batch"], **work["size"]))
    run(folder, recipe, "tokenizer", "tokens")
    _write_rows(folder, work, steps)
    return {"smolrecipe": run_way(folder, recipe), "torchtitan": _plain(folder, work, steps)}


def _plain(folder: Path, work: dict[str, Any], steps: int) -> Way:
    file = folder / "plain.json"
    more = {"folder": str(folder / "plain"), "rows": str(folder / "rows.npy"), "steps": steps}
    file.write_text(json.dumps({**work, **more}))
    return Way([sys.executable, str(Path(__file__).parent / "plain_torchtitan.py"), str(file)], ONE_THREAD)


def _write_rows(folder: Path, work: dict[str, Any], steps: int) -> None:
    """The rows of our mixture as inputs and labels, shape (rows, 2, length)."""
    from smolrecipe_data.mixture import Mixture

    (tokens,) = folder.glob("runs/pretraining/tokens-*")
    sources = {"prose": tokens / "tokens" / "prose"}
    mixture = Mixture(sources, {"prose": 1.0}, sequence_length=work["length"], seed=0)
    rows = [mixture.row(sample).tokens.astype(np.int64) for sample in range((steps + 4) * work["batch"])]
    np.save(folder / "rows.npy", np.stack([np.stack([row[:-1], row[1:]]) for row in rows]))


if __name__ == "__main__":
    main()
