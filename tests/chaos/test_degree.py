"""A stage that is killed may go on with another number of processes: on the same rows in the same steps.

A plugin notes which rows the engines compute in which step; a step's rows are put together over its processes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from chaos_compare import step_errors
from chaos_runs import HERE, STORE, Bench, children
from chaos_stores import artifacts, await_step, copy_store
from chaos_work import Reference
from safetensors.numpy import load_file

KILLED_AFTER = 5
"""The step after which a stage is killed; every second one leaves a checkpoint, some time later."""

PROCESSES = {"pretrain-1": "stages.pretrain-1.parallelism.data_parallel", "sft": "stages.sft.parallelism.processes"}
BOUND = 1e-4
"""Of differences in weights: other processes add up gradients in another order."""


def rows_of(folder: Path) -> dict[int, list[int]]:
    """The checksums of each step's rows, over all processes."""
    found: dict[int, list[int]] = defaultdict(list)
    for path in folder.glob("*.jsonl"):
        for line in path.read_text().splitlines():
            with suppress(json.JSONDecodeError):  # cut short by the kill
                note = json.loads(line)
                found[note["step"]] += note["rows"]
    return {step: sorted(rows) for step, rows in sorted(found.items())}


class Trial:
    """Runs of the recipe for this test, whose rows are noted."""

    def __init__(self, reference: Reference, folder: Path) -> None:
        warm = reference.bench
        self.bench = Bench(recipe=HERE / "degree.yaml", settings=warm.settings, environment=warm.environment)
        self.folder = folder

    def run(self, runs: Path, stage: str, processes: int, *, kill: bool = False) -> dict[int, list[int]]:
        """Run to the end of ``stage``, or to a kill in it, with so many processes in it. Returns the rows computed."""
        notes = Path(tempfile.mkdtemp(dir=self.folder))

        def end_it(run: subprocess.Popen[bytes]) -> None:
            await_step(runs / STORE, stage, KILLED_AFTER, run)
            for process in children(run.pid):
                os.kill(process, signal.SIGKILL)

        ended = self.bench.run(
            runs,
            f"{PROCESSES[stage]}={processes}",
            *(["stages.sft=null"] if stage != "sft" else []),
            environment={"CHAOS_STREAM": str(notes)},
            meanwhile=end_it if kill else lambda run: None,
        )
        ended.check(1 if kill else 0)
        assert {path.name for path in notes.iterdir()} == {f"{rank}-of-{processes}.jsonl" for rank in range(processes)}
        return rows_of(notes)


@pytest.fixture(scope="module")
def trial(reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    return Trial(reference, tmp_path_factory.mktemp("degree"))


@pytest.fixture(scope="module")
def wanted(trial: Trial, reference: Reference) -> dict[str, dict[int, list[int]]]:
    """The rows of each stage in a run in peace, by one process; its store is ``whole``."""
    runs = trial.folder / "whole"
    copy_store(reference.store, runs, without=set(artifacts(reference.store)) - {"tokenizer", "tokens"})
    return {stage: trial.run(runs, stage, 1) for stage in PROCESSES}


@pytest.mark.parametrize(
    ("stage", "before", "after"),
    [
        ("pretrain-1", 2, 1),
        ("sft", 1, 2),
        pytest.param("pretrain-1", 1, 2, marks=pytest.mark.chaos),
        pytest.param("sft", 2, 1, marks=pytest.mark.chaos),
    ],
)
def test_the_rows_of_every_step_are_the_same(
    trial: Trial, wanted: dict[str, dict[int, list[int]]], stage: str, before: int, after: int
) -> None:
    rows, whole = wanted[stage], trial.folder / "whole" / STORE
    runs = trial.folder / f"{stage}-{before}-{after}"
    copy_store(whole, runs, without=[stage, "sft"])
    killed = trial.run(runs, stage, before, kill=True)
    resumed = trial.run(runs, stage, after)
    first = min(resumed)
    assert first > 1, "the stage went on from no checkpoint"
    assert list(killed)[: first - 1] == [*range(1, first)]
    assert {**{step: killed[step] for step in range(1, first)}, **resumed} == rows
    one, other = artifacts(whole)[stage], artifacts(runs / STORE)[stage]
    assert one.name == other.name, "the number of processes changed the identity of the result"
    assert step_errors(other) == []
    assert largest_difference(one, other) < BOUND


def test_rows_that_are_exchanged_would_be_seen(wanted: dict[str, dict[int, list[int]]]) -> None:
    for rows in wanted.values():
        assert len({row for step in rows.values() for row in step}) > len(rows)


def largest_difference(one: Path, other: Path) -> float:
    """The largest difference of two published models' weights."""
    wanted, found = (load_file(artifact / "model" / "model.safetensors") for artifact in (one, other))
    assert wanted.keys() == found.keys()
    return max(float(np.abs(wanted[name] - found[name]).max()) for name in wanted)
