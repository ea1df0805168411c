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
TOKENS = "ef" * 32
HOSTILE = "<script>alert(1)</script>$x"
WORDS = ("hello", "<b>world</b>", "\x1b[31mred", "bye")


def write_run(root: Path) -> Path:
    """Write the run below ``root``; returns its folder."""
    run = root / "tiny"
    _write_tokens(run / f"tokens-{TOKENS[:12]}")
    _write_pretraining(run / f"pretrain-{DIGEST[:12]}")
    _write_fine_tuning(run / f"sft-{'cd' * 6}")
    (run / f"{HOSTILE.replace('/', '')}-{'0' * 12}.partial").mkdir()
    (run / f"apo-{'1' * 12}").mkdir()
    made_with = {"smolrecipe": HOSTILE, "packages": {"torch": "2.14"}, "git": {"commit": "0" * 40}}
    (run / "provenance").mkdir()
    (run / "provenance" / "0.json").write_text(json.dumps(made_with))
    return run


def _write_tokens(folder: Path) -> None:
    """Data, and the tokenizer that a model without one of its own is read with."""
    lengths = {"64": 30, "80": 60, "96": 9, "1024": 1}
    odd = {"x": 1, "65": 7, "-8": 1, "64": -3, "128": "many", "0": 5, "256": 2, "1" * 40: 1}
    sources = {"web": {"documents": 100, "tokens": 9000, "lengths": lengths}, HOSTILE: {"documents": 7, "lengths": odd}}
    write_stage(folder, "tokens", TOKENS, {}, {"use": "tokenize"}, {"sources": {**sources, "none": 3}}, [], {})
    (folder / "metrics.jsonl").write_text("")
    _write_tokenizer(folder / "tokenizer")


def _write_pretraining(folder: Path) -> None:
    measure = {"name": HOSTILE, "unit": "nats", "better": "lower", "before": None, "after": float("nan"), "samples": 4}
    mixed = {"sources": {HOSTILE: {"share": 0.75, "tokens": 12345}, "code": {"share": 0.25, "tokens": 1000}}}
    options = {"use": HOSTILE, "sequence_length": 128, "global_batch": 4, "model": {"rope": {"theta": 50000.0}}}
    options["parallelism"] = {"device": "cpu"}
    summary = {"data": mixed, "read": {HOSTILE: 516, "code": 1548}, "documents_apart": True}
    write_stage(
        folder, "pretrain", DIGEST, {"tokens": TOKENS}, options, summary, [measure], {HOSTILE: {"version": "x" * 9000}}
    )
    events = [{"step": 100 + step, "loss": 3.0 / step, "lr": float("nan")} for step in range(1, 5)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    rows = [
        {
            "source": HOSTILE,
            "row": 0,
            "input_ids": [0, 1, 2, 3, 0],
            "labels": [-100, 1, -100, 3, 0],
            "document_starts": [0, 2],
        },
        {"source": "code", "row": 2, "input_ids": [3, 3], "labels": [-100, -100], "document_starts": [0, 1]},
    ]
    _write_rows(folder, rows)


def _write_fine_tuning(folder: Path) -> None:
    chat = {"rows": 3, "tokens": 40, "learned_tokens": 20, "truncated_rows": 1, "truncated_tokens": 9}
    chat |= {"rows_without_loss": 1, "rows_of_equal_answers": 1, "dropped_tokens": 5}
    lengths = {"48": 2, "64": 1}
    sources = {"chat": {**chat, "lengths": lengths}, "held_out.chat": {"tokens": 7, "lengths": {"7": 1}}}
    summary = {"sources": sources, "passes": 2.0, "steps": 4, "fill": 0.5}
    parents = {"pretrain": DIGEST}
    options = {"use": "sft", "packing": "bfd", "max_length": 64, "parallelism": {"device": "cuda"}}
    write_stage(folder, "sft", "cd" * 32, parents, options, summary, [], {})
    events: list[dict[str, Any]] = [
        {"step": step, "steps": 4, "loss": 1.0 / step, "lr": 0.1, "tokens_per_second": 100.0 * step, "mfu": 0.25}
        for step in range(1, 5)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    _write_tokenizer(folder / "model")
    rows = [
        {"source": "chat", "row": 0, "input_ids": [0, 1, 2, 3], "labels": [-100, -100, 2, 3]},
        {"source": "chat", "row": 1, "input_ids": [3] * 700, "labels": [3] * 700},
        {"source": "chat", "row": 2, "input_ids": None, "labels": None},
        {"source": "held_out.chat", "row": 0, "input_ids": [0, 3], "labels": [-100, 3]},
    ]
    _write_rows(folder, rows)


def _write_rows(folder: Path, rows: list[dict[str, Any]]) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "row_sample.parquet")


def _write_tokenizer(folder: Path) -> None:
    folder.mkdir()
    words = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="bye"))
    words.pre_tokenizer = WhitespaceSplit()
    words.save(str(folder / "tokenizer.json"))


def write_stage(
    folder: Path,
    stage: str,
    digest: str,
    parents: dict[str, str],
    options: Any,
    summary: Any,
    measures: Any,
    plugins: Any,
    started: str = HOSTILE,
) -> None:
    """Write a published stage's record into its folder."""
    folder.mkdir(parents=True)
    record = {"recipe": "tiny", "stage": stage, "kind": "pretrain", "digest": digest, "parents": parents}
    record |= {"options": options, "plugins": plugins, "started": started, "seconds": 1.5}
    (folder / "stage.json").write_text(json.dumps({**record, "measures": measures, "summary": summary}))
