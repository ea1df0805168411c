"""Evaluating model folders that do harm or are damaged: refused in a sentence, or scored on every problem."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"  # read when the engines are first imported

import pytest
from hostile_models import try_all

from smolrecipe import NoOptions, Source, StageContext, StageRef, Use
from smolrecipe_lm_eval import EvaluateOptions, run
from smolrecipe_lm_eval.checks import check_options

MUTANTS = (57, pytest.param(1500, marks=pytest.mark.chaos))


def rows(options: NoOptions) -> Iterator[Mapping[str, Any]]:
    for question in ("one plus one?", "two plus two?"):
        yield {"messages": [{"role": "user", "content": question}], "answer": "2"}


PROBLEMS = Use(
    Source(name="rows", summary="", options=NoOptions, read=rows, yields=lambda options: "problem"), NoOptions()
)


def consume(model: Path, work: Path) -> None:
    """Evaluate the folder, as the artifact of a stage."""
    options = EvaluateOptions(models=[StageRef("bad")], problems={"sums": PROBLEMS}, max_new_tokens=2, batch_size=2)
    assert not list(check_options(options))
    artifact = run(options, StageContext(recipe="test", stage="evaluate", folder=work, inputs={"bad": model.parent}))
    assert artifact.summary["scores"]["bad"]["sums"]["samples"] == 2
    assert len([json.loads(line) for line in (work / "samples" / "bad.jsonl").open()]) == 2
    assert not [path for path in work.rglob("*") if path.is_symlink() or path.suffix in (".bin", ".pt", ".py")]


@pytest.mark.parametrize("count", MUTANTS)
def test_hostile_folders_are_refused_or_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    for module in ("smolrecipe.checkpoint", "smolrecipe.ready_model"):
        monkeypatch.setattr(f"{module}.LONGEST_SECONDS", 4.0)
    found = try_all(tmp_path, 11, count, consume)
    assert sum(found.refused.values()) > count / 2, found
