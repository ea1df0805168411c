"""The same recipe on the same machine gives the same bytes, whatever else is different.

One run's stages are forks of a process that has imported everything; the other's are processes of their own, with
another PYTHONHASHSEED, in another folder, time zone, locale and terminal.
"""

from __future__ import annotations

import json

import pytest
from chaos_compare import LAUNCHED_ANOTHER_WAY, differences, step_errors
from chaos_stores import artifacts
from chaos_work import Reference, Watched

STAGES = ("tokenizer", "tokens", "pretrain-1", "pretrain-2", "pretrain-3", "long-context-32k", "long-context-64k",
          "mid-training", "sft", "reasoning-pairs", "apo", "merge", "export", "evaluate")  # fmt: skip


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_publishes_the_same_bytes_elsewhere(reference: Reference, watched: Watched, stage: str) -> None:
    one, other = artifacts(reference.store)[stage], artifacts(watched.store)[stage]
    assert one.name == other.name
    assert differences(one, other, LAUNCHED_ANOTHER_WAY) == []
    assert step_errors(one) == []


def test_no_stage_is_left_out(reference: Reference) -> None:
    assert set(artifacts(reference.store)) == set(STAGES)


def test_the_measures_are_the_same(reference: Reference, watched: Watched) -> None:
    assert (reference.store / "measures.json").read_bytes() == (watched.store / "measures.json").read_bytes()


def test_what_it_was_made_with_is_the_same(reference: Reference, watched: Watched) -> None:
    """But for the launcher that the tests bring along."""
    (one,), (other,) = ([*(store / "provenance").iterdir()] for store in (reference.store, watched.store))
    assert one.name != other.name, "the launcher is no part of it"
    told, others = json.loads(one.read_text()), json.loads(other.read_text())
    for made_with in (told, others):
        made_with["around"].pop("launcher")
        made_with["packages"].pop("smolrecipe-warm", None)
    assert told == others
