"""Rows, tokenizers and token files as nobody should write them: read right, or refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_judge import WrongError, judged, require_sentence

SHORT = {"rows": 600, "tokenizer": 300, "tokens": 300}
LONG = {"rows": 5_000, "tokenizer": 3_000, "tokens": 3_000}


def require_all_right(kind: str, folder: Path, first: int, count: int) -> None:
    found = judged(kind, folder, first, count)
    assert not found["wrong"], found["wrong"][:5]
    assert found["accepted"] + found["refused"] == count
    assert min(found["accepted"], found["refused"]) > count / 20, f"{found}: the mutants are too mild, or too wild"


@pytest.mark.parametrize("kind", SHORT)
def test_mutants_are_read_right_or_refused(kind: str, tmp_path: Path) -> None:
    require_all_right(kind, tmp_path, 0, SHORT[kind])


@pytest.mark.chaos
@pytest.mark.parametrize("kind", LONG)
def test_many_mutants_are_read_right_or_refused(kind: str, tmp_path: Path) -> None:
    require_all_right(kind, tmp_path, 10_000, LONG[kind])


def test_the_judge_sees_a_refusal_that_names_no_file() -> None:
    require_sentence("rows.jsonl, line 3, is cut short", "rows.jsonl")
    for message in ("it is damaged", "rows.jsonl\x1b[2J", "rows.jsonl" + "x" * 5000):
        with pytest.raises(WrongError):
            require_sentence(message, "rows.jsonl")
