"""A run to report: hostile in its names, numbers and rows, with stages that are published, not done, and damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

DIGEST = "ab" * 32
HOSTILE = "<script>alert(1)</script>$x"
WORDS = ("hello", "<b>world</b>", "\x1b[31mred", "bye")


def write_run(root: Path) -> Path:
    """Write the run below ``root``; returns its folder."""
    run = root / "tiny"
    _write_pretraining(run / f"pretrain-{DIGEST[:12]}")
    _write_fine_tuning(run / f"sft-{'cd' * 6}")
    (run / f"{HOSTILE.replace('/', '')}-{'0' * 12}.partial").mkdir()
    (run / f"apo-{'1' * 12}").mkdir()
    made_with = {"smolrecipe": HOSTILE, "packages": {"torch": "2.14"}, "git": {"commit": "0" * 40}}
    (run / "provenance").mkdir()
    (run / "provenance" / "0.json").write_text(json.dumps(made_with))
    return run


def _write_pretraining(folder: Path) -> None:
    measure = {"name": HOSTILE, "unit": "nats", "better": "lower", "before": None, "after": float("nan"), "samples": 4}
    mixed = {"sources": {HOSTILE: {"share": 0.75, "tokens": 12345}, "code": {"share": 0.25}}}
    options = {"use": HOSTILE, "sequence_length": 128, "global_batch": 4, "model": {"rope": {"theta": 50000.0}}}
    _write(folder, "pretrain", DIGEST, {}, options, {"data": mixed}, [measure], {HOSTILE: {"version": "x" * 9000}})
    events = [{"step": 100 + step, "loss": 3.0 / step, "lr": float("nan")} for step in range(1, 5)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


def _write_fine_tuning(folder: Path) -> None:
    sources = {"chat": {"rows": 3, "tokens": 40, "learned_tokens": 20}, "held_out.chat": {"tokens": 7}}
    summary = {"sources": sources, "passes": 2.0, "steps": 4, "fill": 0.5}
    parents = {"pretrain": DIGEST}
    _write(folder, "sft", "cd" * 32, parents, {"use": "sft", "packing": "bfd", "max_length": 64}, summary, [], {})
    events = [{"step": step, "steps": 4, "loss": 1.0 / step, "lr": 0.1} for step in range(1, 5)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    (folder / "model").mkdir()
    words = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="bye"))
    words.pre_tokenizer = WhitespaceSplit()
    words.save(str(folder / "model" / "tokenizer.json"))
    rows = [
        {"source": "chat", "row": 0, "input_ids": [0, 1, 2, 3], "labels": [-100, -100, 2, 3]},
        {"source": "chat", "row": 1, "input_ids": [3] * 700, "labels": [3] * 700},
        {"source": "chat", "row": 2, "input_ids": None, "labels": None},
        {"source": "held_out.chat", "row": 0, "input_ids": [0, 3], "labels": [-100, 3]},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "row_sample.parquet")


def _write(
    folder: Path,
    stage: str,
    digest: str,
    parents: dict[str, str],
    options: Any,
    summary: Any,
    measures: Any,
    plugins: Any,
) -> None:
    folder.mkdir(parents=True)
    record = {"recipe": "tiny", "stage": stage, "kind": "pretrain", "digest": digest, "parents": parents}
    record |= {"options": options, "plugins": plugins, "started": HOSTILE, "seconds": 1.5}
    (folder / "stage.json").write_text(json.dumps({**record, "measures": measures, "summary": summary}))
