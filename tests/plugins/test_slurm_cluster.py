"""The scripts in a real Slurm: dependencies, a failure, preemption, a time limit, requeues, and stages on two nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import slurm_cluster

pytestmark = [
    pytest.mark.chaos,  # a minute and a half: Slurm looks at its queue now and then
    pytest.mark.skipif(bool(slurm_cluster.why_not()), reason=slurm_cluster.why_not()),
]

Plant = Callable[..., Path]

STEPS = """
import json, os, time
from attrs import frozen
import smolrecipe
from smolrecipe import Artifact, Devices, StageError, StageKind, StageRef, option
from smolrecipe.durable import write_json
from smolrecipe.errors import StageStopped


@frozen(kw_only=True)
class Options:
    to: int = option(doc="steps")
    seconds: float = option(default=0.0, identity=False, doc="of each")
    processes: int = option(default=1, identity=False, doc="processes")
    fails: bool = option(default=False, doc="how it ends")
    from_: tuple[StageRef, ...] = option(default=(), needs="number", doc="stages it waits for")


def run(options, context):
    asked = context.heed_stop()
    state = context.folder / "checkpoint.json"
    done = json.loads(state.read_text()) if state.exists() else 0
    if options.fails:
        raise StageError("it fails, as it was told to")
    for step in range(done + 1, options.to + 1):
        time.sleep(options.seconds)
        with (context.folder / f"journal-{context.rank}.txt").open("a") as journal:
            journal.write(f"{step} {os.environ.get('SLURM_RESTART_COUNT', '0')} {os.environ.get('SLURMD_NODENAME')}\\n")
        if context.rank == 0:
            write_json(state, step)
            context.progress(step, options.to)
            context.saved(step)
        if asked():
            raise StageStopped(step)
    return Artifact()


@smolrecipe.hookimpl
def smolrecipe_stages():
    yield StageKind(
        name="steps", summary="steps", options=Options, run=run, produces=lambda options: {"number": True},
        devices=lambda options: Devices(processes=options.processes),
    )


@smolrecipe.hookimpl
def smolrecipe_launchers():
    import sys
    yield smolrecipe.Launcher(
        name="direct", summary="one process", capacity=lambda options: {},
        command=lambda options, devices, worker: [sys.executable, "-m", *worker],
    )
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[slurm_cluster.Cluster]:
    with slurm_cluster.running(tmp_path_factory.mktemp("slurm")) as started:
        yield started


class Trial:
    """A recipe in a folder with a hostile name, and what became of its jobs."""

    def __init__(self, cluster: slurm_cluster.Cluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        folder.mkdir()

    def launch(self, stages: str, *options: str) -> dict[str, str]:
        """Submit the recipe; the jobs' numbers by stage."""
        recipe = self.folder / "it's my recipe.yaml"
        recipe.write_text(f"name: trial\nlauncher: {{use: direct}}\nstages:\n{stages}")
        variables = {"PYTHONPATH": os.environ["PYTHONPATH"], "SMOLRECIPE_PLUGINS": "steps,slurm"}
        told = subprocess.run(
            [sys.executable, "-m", "smolrecipe", "launch", "slurm", recipe.name, "--submit", "--json", *options],
            env={**self.cluster.environment, **variables}, cwd=self.folder, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert told.returncode == 0, told.stderr
        return {job["stage"]: job["job"] for job in json.loads(told.stdout)}

    def journal(self, stage: str, rank: int = 0) -> list[list[str]]:
        """Step, restarts before it, and node, of each step that the stage has done."""
        (file,) = self.folder.glob(f"runs/trial/{stage}-*/journal-{rank}.txt")
        return [line.split() for line in file.read_text().splitlines()]

    def begun(self, stage: str) -> bool:
        return any(self.folder.glob(f"runs/trial/{stage}-*.partial/checkpoint.json"))

    def wait(self, job: str, state: str, seconds: float = 90) -> None:
        """Wait for a job's state, and no longer than it can still come to that."""

        def is_so() -> bool:
            found = self.cluster.job(job)["JobState"]
            over = found in {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"} - {state}
            outputs = {path.name: path.read_text() for path in self.folder.glob("slurm/trial/*.out")}
            assert not over, f"job {job} is {found}: {outputs}"
            return found == state

        self.cluster.wait(f"job {job} {state}", is_so, seconds)

    def output(self, stage: str) -> str:
        return "".join(path.read_text() for path in self.folder.glob(f"slurm/trial/*-{stage}.*.out"))


@pytest.fixture
def trial(cluster: slurm_cluster.Cluster, plant: Plant, tmp_path: Path) -> Trial:
    plant("smolrecipe_steps", {"__init__.py": STEPS}, plugin="steps")
    return Trial(cluster, tmp_path / "a b'c \"$HOME` #")


def steps_of(journal: list[list[str]]) -> list[int]:
    return [int(step) for step, _, _ in journal]


def test_stages_wait_for_those_they_use_and_not_for_others(trial: Trial) -> None:
    jobs = trial.launch(
        "  one: {use: steps, to: 1}\n"
        "  left: {use: steps, to: 5, seconds: 0.4, from: [one]}\n"
        "  right: {use: steps, to: 6, seconds: 0.4, from: [one]}\n"
        "  both: {use: steps, to: 1, from: [left, right]}\n"
    )
    trial.wait(jobs["both"], "COMPLETED")
    times = {stage: trial.cluster.job(job) for stage, job in jobs.items()}
    assert times["left"]["StartTime"] >= times["one"]["EndTime"]
    assert times["both"]["StartTime"] >= max(times["left"]["EndTime"], times["right"]["EndTime"])
    assert times["right"]["StartTime"] < times["left"]["EndTime"], "the two were to run at once"
    assert "stage 'both' is published" in trial.output("both")
    assert trial.launch("  one: {use: steps, to: 1}\n") == {}


def test_what_uses_a_stage_that_fails_never_starts(trial: Trial) -> None:
    jobs = trial.launch("  bad: {use: steps, to: 1, fails: true}\n  after: {use: steps, to: 1, from: [bad]}\n")
    trial.wait(jobs["bad"], "FAILED")
    trial.wait(jobs["after"], "CANCELLED")
    assert trial.cluster.job(jobs["bad"])["ExitCode"] == "1:0"
    assert "it fails, as it was told to" in trial.output("bad")


@pytest.mark.parametrize("partition", ["low", "graceful"])
def test_a_preempted_job_saves_and_goes_on(trial: Trial, partition: str) -> None:
    jobs = trial.launch("  long: {use: steps, to: 25, seconds: 0.2}\n", "--partition", partition)
    trial.cluster.wait("a step", lambda: trial.begun("long"))
    high = trial.cluster.call(
        "sbatch", "--parsable", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"
    )
    trial.wait(high, "COMPLETED")
    trial.wait(jobs["long"], "COMPLETED", 150)
    journal = trial.journal("long")
    assert steps_of(journal) == [*range(1, 26)], "every step once: it went on from what it had saved"
    assert {restarts for _, restarts, _ in journal} == {"0", "1"}
    assert "interrupted in stage 'long', saved after step" in trial.output("long")


def test_a_job_whose_time_is_over_goes_on(trial: Trial) -> None:
    jobs = trial.launch("  long: {use: steps, to: 25, seconds: 0.2}\n")
    trial.cluster.wait("a step", lambda: trial.begun("long"))
    # What --signal=B:TERM@ does when the time comes, without the minute that Slurm's clock takes.
    trial.cluster.call("scancel", "--signal=TERM", "--batch", jobs["long"])
    trial.wait(jobs["long"], "COMPLETED", 150)
    journal = trial.journal("long")
    assert steps_of(journal) == [*range(1, 26)]
    assert {restarts for _, restarts, _ in journal} == {"0", "1"}
    assert f"back into the queue: job {jobs['long']}" in trial.output("long")


def test_a_cancelled_job_stays_cancelled(trial: Trial) -> None:
    jobs = trial.launch("  long: {use: steps, to: 500, seconds: 0.2}\n")
    trial.cluster.wait("a step", lambda: trial.begun("long"))
    trial.cluster.call("scancel", jobs["long"])
    trial.wait(jobs["long"], "CANCELLED")
    trial.cluster.wait("its end", lambda: not trial.cluster.call("squeue", "-h"))
    time.sleep(2)  # longer than a requeue takes here
    assert trial.cluster.job(jobs["long"])["JobState"] == "CANCELLED"
    assert "saved after step" in trial.output("long")


@pytest.mark.parametrize("partition", ["low", "graceful"])
def test_a_stage_on_two_nodes_is_preempted_and_goes_on(trial: Trial, partition: str) -> None:
    stage = "  wide: {use: steps, to: 20, seconds: 0.3, processes: 2}\n"
    jobs = trial.launch(stage, "--partition", partition, "--processes-per-node", "1")
    assert trial.cluster.job(jobs["wide"])["NumNodes"].startswith("2")
    trial.cluster.wait("a step", lambda: trial.begun("wide"))
    high = trial.cluster.call(
        "sbatch", "--parsable", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1"
    )
    trial.wait(high, "COMPLETED", 150)
    trial.wait(jobs["wide"], "COMPLETED", 150)
    first, second = trial.journal("wide"), trial.journal("wide", rank=1)
    assert steps_of(first) == [*range(1, 21)]
    assert {restarts for _, restarts, _ in first} == {"0", "1"}
    assert {node for _, _, node in first + second} == set(slurm_cluster.NODES)
