"""Steps of our ``sft`` and ``preference`` against those of plain TRL's ``SFTTrainer`` and ``DPOTrainer``.

    python benchmarks/post_training.py [sft-1M] [sft-100M] [dpo-1M] [dpo-100M]

The same model, conversations, chat template and batches, in float32 on one CPU thread: SFT on rows that are packed by
best fit with the loss on every token, DPO on pairs against a reference. Ours are the stages that ``smolrecipe run``
runs, with their metrics, memory and finite checks; TRL logs every step as ours do.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from measuring import COMPARED, compared, keep, named
from our_runs import ONE_THREAD, run, run_way
from small_models import MODELS, save_model
from turns import Way, take_turns, total_steps

GOAL = 1.02

WORK: dict[str, dict[str, Any]] = {
    "sft-1M": {"kind": "sft", "length": 256, "batch": 2, "turns": {"rounds": 30, "steps": 3, "dropped": 3}},
    "sft-100M": {"kind": "sft", "length": 64, "batch": 1, "turns": {"rounds": 15, "steps": 1, "dropped": 2}},
    "dpo-1M": {"kind": "preference", "length": 128, "batch": 4, "turns": {"rounds": 30, "steps": 3, "dropped": 3}},
    "dpo-100M": {"kind": "preference", "length": 64, "batch": 1, "turns": {"rounds": 15, "steps": 1, "dropped": 2}},
}

RECIPE = """\
name: post-training
launcher: {{use: local}}
trackers: [{{use: turns, stage: train}}]
stages:
  tokenizer:
    use: train_tokenizer
    vocab_size: 2048
    data: {{sums: {{use: arithmetic, style: think, split: train, rows: 2000}}, prose: {{use: python_docs, rows: 300}}}}
  train:
    use: {kind}
    from: {model}
    data: {{rows: {{use: files, paths: [{rows}], yields: {shape}}}}}
    chat_template: compact
    max_length: {length}
    max_steps: {steps}
    global_batch: {batch}
    micro_batch: {batch}
    optimizer: {{use: adamw, lr: 1.0e-4}}
    schedule: {{use: linear, warmup_steps: 1}}
    precision: float32
    checkpoint_every: 100000
    {more}
"""
MORE = {"sft": "packing: bfd", "preference": "loss: {use: dpo, beta: 0.1}"}
SHAPES = {"sft": "chat", "preference": "preference"}


def main() -> None:
    """Measure and print."""
    rows, details = [], {}
    for name in (names := sys.argv[1:] or list(WORK)):
        size = MODELS[name.partition("-")[2]]
        with tempfile.TemporaryDirectory() as temporary:
            turns = WORK[name]["turns"]
            found = take_turns(ways_of(Path(temporary), WORK[name], size, total_steps(**turns)), **turns)
        rows += compared(name, found, ours="smolrecipe", goal=GOAL)
        details[name] = {**WORK[name], "model": size, "turns": found}
    title = "A step of fine-tuning and of preference optimisation, one thread"
    keep(named("post-training", names, WORK), title, COMPARED, rows, details=details)


def ways_of(folder: Path, work: dict[str, Any], size: dict[str, int], steps: int) -> dict[str, Way]:
    """Both trainings of so many steps, with what they need in ``folder``."""
    rows, recipe = folder / "rows.jsonl", folder / "post-training.yaml"
    _write_rows(rows, work["kind"])
    filled = {**work, "steps": steps, "model": folder / "model", "rows": rows}
    recipe.write_text(RECIPE.format(**filled, more=MORE[work["kind"]], shape=SHAPES[work["kind"]]))
    run(folder, recipe, "tokenizer")
    (tokenizer,) = folder.glob("runs/post-training/tokenizer-*/tokenizer")
    save_model(folder / "model", size, tokenizer)
    return {"smolrecipe": run_way(folder, recipe), "trl": _plain(folder, filled)}


def _plain(folder: Path, work: dict[str, Any]) -> Way:
    from smolrecipe_trl.chat_templates import template_path

    file = folder / "plain.json"
    template = {"chat_template": str(template_path("compact")), "folder": str(folder / "plain")}
    file.write_text(json.dumps({**work, **template}, default=str))
    return Way([sys.executable, str(Path(__file__).parent / "plain_trl.py"), str(file)], ONE_THREAD)


def _write_rows(file: Path, kind: str) -> None:
    """One conversation of our source ``arithmetic``, or one pair, again and again.

    So every step of every trainer computes as many tokens, whatever order it takes its rows in.
    """
    from smolrecipe_data.arithmetic import read
    from smolrecipe_data.source_options import ArithmeticOptions

    style = {"sft": "think", "preference": "preference"}[kind]
    (row,) = read(ArithmeticOptions(style=style, split="train", turns=3, rows=1))
    file.write_text(2000 * (json.dumps(row) + "\n"))


if __name__ == "__main__":
    main()
