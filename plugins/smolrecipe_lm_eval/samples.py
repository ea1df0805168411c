"""What models answered, sample by sample, beside the scores: what ``verify`` reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from smolrecipe_lm_eval import problems

PROBLEMS, RULER, TEXTS = "samples", "ruler", "texts"
"""The folders of an evaluation's artifact that have a file of lines for each model."""


def write_lines(file: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write one line of JSON for each sample."""
    with file.open("w", encoding="utf-8") as opened:
        opened.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def read_lines(folder: Path, kind: str, model: str) -> list[dict[str, Any]]:
    """The samples of a kind that are published of a model; none where it was not asked for any."""
    path = folder / kind / f"{model}.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def of_problems(samples: Mapping[str, list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """A line for each answer to a problem that lm-eval has logged."""
    for task, of_task in samples.items():
        for sample in of_task:
            yield {
                "task": task,
                "prompt": sample["arguments"][0][0],
                "answer": sample["target"],
                "given": sample["filtered_resps"][0],
                "right": bool(sample[problems.METRIC]),
            }
