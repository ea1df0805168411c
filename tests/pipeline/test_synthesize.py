"""Data made by a teacher, in a real run: pairs and chats that two training stages learn, and kills in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from trl_toys import write_base

from smolrecipe_trl.chat_templates import template_path

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[[Sequence[str | Path]], "subprocess.Popen[str]"]

RECIPE = """\
name: taught
launcher: {use: local}
stages:
  pairs:
    use: synthesize
    mode: pairs
    prompts:
      sums: {use: arithmetic, style: problems, split: train, languages: [en], rows: 40}
      chats: {use: arithmetic, style: no_think, split: train, turns: 2, rows: 8}
    teacher: {use: transformers, model: ./base, temperature: 1.0, max_new_tokens: 24, batch_size: 4}
    rejected: {use: transformers, model: ./base, temperature: 1.5, top_p: 0.9, max_new_tokens: 16, batch_size: 4}
    filters:
      letters: {use: length, at_least_characters: 2, whole: false}
      once: {use: near_duplicates, of: answer}
  chats:
    use: synthesize
    prompts:
      sums: {use: arithmetic, style: think, split: train, languages: [en], turns: 2, rows: 21}
    turns: every
    processes: 2
    teacher: {use: transformers, model: ./base, temperature: 1.0, max_new_tokens: 16, batch_size: 4}
  sft:
    use: sft
    from: ./base
    data:
      taught: {use: synthesized, from: chats, rows: 20}
    chat_template: compact
    loss_on: assistant
    max_length: 256
    max_steps: 2
    global_batch: 2
    micro_batch: 2
    optimizer: {use: adamw, lr: 1.0e-3}
    schedule: {use: cosine}
    precision: float32
  apo:
    use: preference
    from: sft
    data:
      taught: {use: synthesized, from: pairs, yields: preference}
    loss: {use: apo_zero, beta: 0.1}
    chat_template: compact
    max_length: 256
    max_steps: 2
    global_batch: 2
    micro_batch: 2
    optimizer: {use: adamw, lr: 1.0e-3}
    schedule: {use: cosine}
    precision: float32
"""
ANSWERS = 96
"""Of stage ``pairs``: 48 prompts, two models."""


@pytest.fixture
def recipe(tmp_path: Path, write_recipe: Callable[..., Path]) -> Path:
    write_base(tmp_path / "base", initializer_range=0.1)
    (tmp_path / "base" / "chat_template.jinja").write_text(template_path("compact").read_text())
    return write_recipe(RECIPE)


def folder(tmp_path: Path, stage: str) -> Path:
    (found,) = (tmp_path / "runs" / "taught").glob(f"{stage}-*")
    return found


def summary(tmp_path: Path, stage: str) -> dict[str, Any]:
    return dict(json.loads((folder(tmp_path, stage) / "stage.json").read_text())["summary"])


def lines(place: Path, what: str) -> list[dict[str, Any]]:
    return [json.loads(line) for file in sorted((place / what).glob("*.jsonl")) for line in file.open()]


def content(place: Path, what: str) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((place / what).iterdir())}


def test_stages_learn_what_models_wrote(tmp_path: Path, recipe: Path, smolrecipe: Run) -> None:
    planned = smolrecipe("plan", recipe, check=0).stdout
    assert "what models write" in planned
    smolrecipe("run", recipe, check=0)
    pairs, chats = folder(tmp_path, "pairs"), folder(tmp_path, "chats")
    records = {
        stage: json.loads((folder(tmp_path, stage) / "stage.json").read_text()) for stage in ("pairs", "sft", "apo")
    }
    kept = lines(pairs, "rows")
    dropped = records["pairs"]["summary"]["dropped"]
    assert len(kept) + sum(sum(reasons.values()) for reasons in dropped.values()) == 48
    assert summary(tmp_path, "apo")["sources"]["taught"]["rows"] == len(kept) > 40
    assert summary(tmp_path, "sft")["sources"]["taught"]["rows"] == 20
    made = lines(chats, "rows")
    assert [row["origin"]["row"] for row in made] == list(range(21))
    assert all([message["role"] for message in row["messages"]] == ["user", "assistant"] * 2 for row in made)
    assert len(lines(chats, "answers")) == 42 and len(list((chats / "answers").iterdir())) == 2
    assert "0 of" in smolrecipe("verify", pairs, check=0).stdout
    smolrecipe("verify", chats, check=0)
    again = smolrecipe("run", recipe, check=0)
    assert "0 run now" in again.stdout


def test_killed_anywhere_no_answer_is_asked_for_twice_and_rows_are_the_same(
    tmp_path: Path, recipe: Path, smolrecipe: Run, start_smolrecipe: Start
) -> None:
    for stage in ("base", "pairs"):
        smolrecipe("run", recipe, "--only", stage, "--runs", tmp_path / "whole", check=0)
    (whole,) = (tmp_path / "whole" / "taught").glob("pairs-*")
    smolrecipe("run", recipe, "--only", "base", check=0)
    kept: list[int] = []
    for least in (1, 20, 49, 80):
        killed = start_smolrecipe(["run", recipe, "--only", "pairs"])
        end = time.monotonic() + 120
        while len(answered(tmp_path)) < least:
            assert killed.poll() is None and time.monotonic() < end
            time.sleep(0.002)
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        time.sleep(0.2)  # the stage's own process ends with the one that started it
        found = answered(tmp_path)
        assert len(set(found)) == len(found) < ANSWERS
        kept.append(len(found))
    assert kept == sorted(kept) and kept[-1] >= 80
    smolrecipe("run", recipe, "--only", "pairs", check=0)
    pairs = folder(tmp_path, "pairs")
    assert len(answered(tmp_path)) == ANSWERS
    assert content(pairs, "rows") == content(whole, "rows")
    # What was answered before a kill stays as it was: files are those of an uninterrupted run, line by line.
    assert content(pairs, "answers") == content(whole, "answers")


def test_asked_to_stop_it_goes_on_where_it_was(
    tmp_path: Path, recipe: Path, smolrecipe: Run, start_smolrecipe: Start
) -> None:
    smolrecipe("run", recipe, "--only", "base", check=0)
    stopped = start_smolrecipe(["run", recipe, "--only", "chats"])
    end = time.monotonic() + 120
    while not answered(tmp_path, "chats"):
        assert stopped.poll() is None and time.monotonic() < end
        time.sleep(0.002)
    stopped.send_signal(signal.SIGTERM)
    stopped.wait(60)
    assert stopped.returncode == 143
    before = answered(tmp_path, "chats")
    assert 0 < len(before) < 42
    smolrecipe("run", recipe, "--only", "chats", check=0)
    found = answered(tmp_path, "chats")
    assert len(found) == len(set(found)) == 42 and set(before) <= set(found)


def answered(tmp_path: Path, stage: str = "pairs") -> list[tuple[str, int, int, str]]:
    """Answers that are whole on the disk: model, row, turn and text."""
    return [
        (file.name.partition("-")[0], told["row"], told["turn"], told["text"])
        for file in sorted((tmp_path / "runs").glob(f"taught/{stage}-*/answers/*.jsonl"))
        for line in file.read_bytes().splitlines(keepends=True)
        if line.endswith(b"\n")
        for told in [json.loads(line)]
    ]
