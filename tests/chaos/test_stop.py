"""Asked to stop, by a scheduler or by Ctrl-C, a stage saves first: SIGTERM at any moment loses no step.

With stages in processes of their own, as users start them, where it is said; else forked of a warm process.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from chaos_compare import LAUNCHED_ANOTHER_WAY, differences, step_errors
from chaos_counts import count
from chaos_random import descendants
from chaos_runs import STORE, Bench
from chaos_stores import artifacts, await_step, copy_store, leftovers
from chaos_work import Reference

pytestmark = pytest.mark.chaos

ASKED_AFTER = 3
"""The step that a stage has told of when it is asked to stop; every second one is saved anyway."""

GRACE = 60.0
EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}
TRAINS = ("pretrain-1", "long-context-32k", "mid-training", "sft", "apo")
WARM, COLD = "warm", "cold"

Ask = Callable[[subprocess.Popen[bytes]], None]


def ask(number: signal.Signals, everyone: bool) -> Ask:
    """Send the signal to the runner, or to all of its processes too, as a scheduler does."""

    def send(run: subprocess.Popen[bytes]) -> None:
        for process in [run.pid, *(descendants(run.pid) if everyone else ())]:
            os.kill(process, number)

    return send


@pytest.mark.parametrize(
    ("stage", "number", "everyone", "how"),
    [
        *((stage, signal.SIGTERM, False, WARM) for stage in TRAINS),
        ("pretrain-1", signal.SIGINT, False, WARM),
        ("sft", signal.SIGINT, False, WARM),
        ("pretrain-1", signal.SIGTERM, True, COLD),
        ("sft", signal.SIGTERM, True, COLD),
        ("apo", signal.SIGTERM, False, COLD),
    ],
)
def test_a_stage_that_trains_saves_before_it_stops(
    reference: Reference, tmp_path: Path, stage: str, number: signal.Signals, everyone: bool, how: str
) -> None:
    bench, runs = reference.bench if how == WARM else Bench(), tmp_path / "runs"
    store = copy_store(reference.store, runs, without=[stage])
    asked = []

    def stop(run: subprocess.Popen[bytes]) -> None:
        after = 1 if stage == "long-context-32k" else ASKED_AFTER
        await_step(store, stage, after, run)
        asked.append(time.monotonic())
        ask(number, everyone)(run)

    ended = bench.run(runs, meanwhile=stop).check(EXIT_CODES[number])
    assert time.monotonic() - asked[0] < GRACE
    count("requests to stop", f"{stage}, {number.name}{', all processes' if everyone else ''}, {how}")
    said = re.search(rf"interrupted in stage '{stage}', saved after step (\d+)", ended.output)
    assert said, ended.output
    (metrics,) = store.glob(f"{stage}-*.partial/metrics.jsonl")
    assert f'"checkpoint": {said[1]}' in metrics.read_text()
    again = bench.run(runs).check(0)
    assert f"step {said[1]}" in again.output, again.output
    one, other = artifacts(reference.store)[stage], artifacts(store)[stage]
    how_launched = LAUNCHED_ANOTHER_WAY if how == COLD else ()
    assert [*differences(one, other, how_launched), *step_errors(other), *leftovers(store)] == []


@pytest.mark.parametrize("stage", ["tokenizer", "tokens", "merge", "export", "evaluate"])
@pytest.mark.parametrize("wait", [0.2, 0.6, 1.2])
def test_a_stage_that_does_not_train_stops_at_once_and_is_done_again(
    reference: Reference, tmp_path: Path, stage: str, wait: float
) -> None:
    runs = tmp_path / "runs"
    store = copy_store(reference.store, runs, without=[stage])

    def stop(run: subprocess.Popen[bytes]) -> None:
        while not [*store.glob(f"{stage}-*")] and run.poll() is None:
            time.sleep(0.005)
        time.sleep(wait)
        if run.poll() is None:
            ask(signal.SIGTERM, everyone=False)(run)

    ended = reference.bench.run(runs, meanwhile=stop)
    count("requests to stop", f"{stage}, SIGTERM: {'came late' if ended.code == 0 else 'stopped'}")
    assert ended.code in (0, EXIT_CODES[signal.SIGTERM]), ended.output
    assert "Traceback" not in ended.output, ended.output
    reference.bench.run(runs).check(0)
    assert differences(artifacts(reference.store)[stage], artifacts(runs / STORE)[stage]) == []
    assert leftovers(store) == []
