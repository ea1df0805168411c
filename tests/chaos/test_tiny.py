"""The whole recipe that a newcomer runs, killed at random times and run elsewhere: the same bytes."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from chaos_compare import differences, step_errors
from chaos_counts import count
from chaos_random import run_with_kills
from chaos_runs import Bench
from chaos_stores import artifacts, leftovers
from chaos_work import ELSEWHERE

pytestmark = pytest.mark.chaos

SEED = os.environ.get("CHAOS_SEED", "1")
KILLS = int(os.environ.get("CHAOS_TINY_KILLS", "8"))
LONGEST = 45.0
"""Seconds between two kills, at most: a stage takes about as long, and most of it comes after its imports."""


def test_the_tiny_recipe_ends_as_if_it_had_not_been_killed_and_as_elsewhere(
    tiny_run: Path, repository: Path, tmp_path: Path
) -> None:
    bench = Bench(recipe=repository / "recipes" / "smollm3-tiny.yaml", threads=None, environment=ELSEWHERE)
    luck = random.Random(f"{SEED}, tiny")
    wrong = run_with_kills(bench, tmp_path / "runs", luck, LONGEST, KILLS, "kills of the tiny recipe", seconds=3600)
    store, wanted = tmp_path / "runs" / "smollm3-tiny", artifacts(tiny_run)
    found = artifacts(store)
    same = {name for name, folder in wanted.items() if found[name].name == folder.name}
    assert same == set(wanted), "SMOLRECIPE_TINY_RUN was made of other sources"
    for name, folder in wanted.items():
        here = [*differences(folder, found[name]), *step_errors(found[name])]
        count("stages of the tiny recipe compared", name, here)
        wrong += here
    assert [*wrong, *leftovers(store)] == []
