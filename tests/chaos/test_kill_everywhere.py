"""The long form of ``test_kill_anywhere.py``: as many kills as there is time for, in an order that the seed decides.

CHAOS_MINUTES says how long all of it may take, CHAOS_SEED which kills come. Where the time is enough, every change to
the file system that the mini recipe makes is killed once before and, where a file is opened, once in the middle.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest
from chaos_compare import differences, step_errors
from chaos_counts import count
from chaos_random import run_with_kills
from chaos_runs import LONGEST_SECONDS, STORE, Kill, Role
from chaos_stores import Event, artifacts, changes, copy_store, leftovers
from chaos_work import Reference

pytestmark = pytest.mark.chaos

MINUTES = float(os.environ.get("CHAOS_MINUTES", "12"))
SEED = os.environ.get("CHAOS_SEED", "1")
KINDS: tuple[Role, ...] = ("runner", "worker")
AGAIN = 4
"""How often one stage is killed in a row."""

T = TypeVar("T")


def side_by_side(act: Callable[[T], list[str]], cases: Sequence[T], minutes: float) -> list[str]:
    """Do two cases at a time until the time is over. Returns all that they found."""
    end = time.monotonic() + 60 * minutes

    def act_in_time(case: T) -> list[str]:
        return act(case) if time.monotonic() < end else []

    with ThreadPoolExecutor(2) as pool:
        return [found for result in pool.map(act_in_time, cases) for found in result]


def compared(reference: Reference, store: Path, stages: Sequence[str]) -> list[str]:
    """What is not in a store as it is in the reference."""
    wanted, found = artifacts(reference.store), artifacts(store)
    wrong = [f"stage '{stage}' is not published" for stage in stages if stage not in found]
    for stage in [stage for stage in stages if stage in found]:
        wrong += [*differences(wanted[stage], found[stage]), *step_errors(found[stage])]
    return [*wrong, *leftovers(store)]


def all_kills(reference: Reference) -> list[tuple[Kill, Event]]:
    """Every kill that can be, with the change that it comes at."""
    found: list[tuple[Kill, Event]] = []
    for stage in artifacts(reference.store):
        for role in KINDS:
            for number, event in enumerate(changes(reference.record, reference.store, stage, role), start=1):
                found.append((Kill(stage=stage, role=role, at=number, moment="before"), event))
                if event["event"] == "open":
                    found.append((Kill(stage=stage, role=role, at=number, moment="opened"), event))
    return found


def test_a_kill_at_every_change(reference: Reference, tmp_path: Path) -> None:
    kills = all_kills(reference)
    random.Random(SEED).shuffle(kills)

    def kill_once(case: tuple[Kill, Event]) -> list[str]:
        kill, event = case
        runs = tmp_path / f"{kill.stage}-{kill.role}-{kill.at}-{kill.moment}"
        store = copy_store(reference.store, runs, without=[kill.stage])
        came = reference.bench.kill(kill, runs)
        try:
            reference.bench.run(runs).check(0)
            wrong = compared(reference, store, [kill.stage])
        except AssertionError as error:
            wrong = [str(error)]
        shutil.rmtree(runs)
        if came is None:
            count("kills that never came", f"{kill.stage}, {kill.role}")
        else:
            opened = ", opened" if kill.moment == "opened" else ""
            count("kills at changes", f"{kill.stage}, {kill.role}: {event['event']}{opened}", wrong)
        return [f"{kill} ({came}): {what}" for what in wrong]

    assert side_by_side(kill_once, kills, MINUTES / 2) == []


def test_kills_in_a_row(reference: Reference, tmp_path: Path) -> None:
    """One stage after the other, each killed at random changes until it has come to its end."""
    stages = [stage for stage in artifacts(reference.store) for _ in range(3)]
    luck = random.Random(f"{SEED}, in a row")
    luck.shuffle(stages)

    def kill_often(case: tuple[int, str]) -> list[str]:
        number, stage = case
        mine, runs, wrong = random.Random(f"{SEED}, {case}"), tmp_path / str(number), list[str]()
        store = copy_store(reference.store, runs, without=[stage])
        for _ in range(AGAIN):
            role: Role = mine.choice(KINDS)
            among = changes(reference.record, reference.store, stage, role)
            kill = Kill(stage=stage, role=role, at=mine.randint(1, len(among)), moment="before")
            if reference.bench.kill(kill, runs) is None:
                break
            count("kills in a row", f"{stage}, {role}")
        try:
            reference.bench.run(runs).check(0)
            wrong = compared(reference, store, [stage])
        except AssertionError as error:
            wrong = [str(error)]
        shutil.rmtree(runs)
        return [f"kills in a row in '{stage}': {what}" for what in wrong]

    assert side_by_side(kill_often, [*enumerate(stages)], MINUTES / 6) == []


def test_kills_at_random_times(reference: Reference, tmp_path: Path) -> None:
    """Whole pipelines: what no audit event tells of comes here, and the kernel that ends what the killed have left."""

    def run_pipeline(number: int) -> list[str]:
        runs, luck = tmp_path / str(number), random.Random(f"{SEED}, {number}")
        wrong = run_with_kills(
            reference.bench, runs, luck, longest=5.0, kills=30, counted="kills at random times", seconds=LONGEST_SECONDS
        )
        wrong += compared(reference, runs / STORE, [*artifacts(reference.store)])
        shutil.rmtree(runs)
        return [f"pipeline {number}: {what}" for what in wrong]

    assert side_by_side(run_pipeline, range(100), MINUTES / 3) == []
