"""Two processes: they stop together, go on as one or as two with the same rows, and do not wait for ever."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import trl_toys
from trl_chaos import Ended, Server, beside

STEPS = 6
TIMEOUT = 6
"""Seconds that they wait for each other in the tests of those that hang."""


class Pair:
    """Two processes that fork one each for a job, so that two stages' processes start in no time."""

    def __init__(self, base: Path) -> None:
        self.servers = (Server(base), Server(base))

    def run(self, folder: Path, log: Path, *, own: Sequence[Mapping[str, Any]] = ({}, {}), **job: Any) -> list[Any]:
        """Run a stage in both; ``own`` is what only one of them is told. Returns what each ended with, and when."""
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            port = server.getsockname()[1]
        shared = {"kind": "sft", "folder": folder, "world_size": 2, "port": port, **job}
        for rank, server in enumerate(self.servers):
            server.start(**shared, rank=rank, log=log.with_name(f"{log.name}.{rank}"), **own[rank])
        return [server.answer() for server in self.servers]

    def end(self) -> None:
        for server in self.servers:
            server.end()


def rows_of(log: Path) -> dict[int, list[str]]:
    """Step -> rows of both processes, sorted: which of them computes a row is no matter."""
    found: dict[int, list[str]] = {}
    for rank in range(2):
        for step, rows in Ended(log, log.with_name(f"{log.name}.{rank}")).rows().items():
            found.setdefault(step, []).extend(rows)
    return {step: sorted(rows) for step, rows in found.items()}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    pair = Pair(trl_toys.base_artifact(tmp_path_factory))
    yield pair
    pair.end()


@pytest.fixture(scope="module")
def alone(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """The stage in one process, whole."""
    folder = tmp_path_factory.mktemp("alone")
    assert pair.servers[0].run(kind="sft", folder=folder / "stage", log=folder / "log")["code"] == 0
    return Ended(folder / "stage", folder / "log")


@pytest.fixture(scope="module")
def stopped(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stage in two processes, of which only one was asked to stop, in step 3; and their log."""
    folder = tmp_path_factory.mktemp("stopped")
    answers = pair.run(folder / "stage", folder / "log", own=({}, {"signal": ["SIGTERM", 3]}))
    assert [answer["said"] for answer in answers] == ["StageStopped: stopped after step 3"] * 2
    assert sorted(path.name for path in (folder / "stage" / "trainer").iterdir()) == ["checkpoint-2", "checkpoint-3"]
    return folder


def distance(one: Ended, other: Ended) -> float:
    """The largest difference of two models' weights."""
    ours, theirs = one.weights()["model/model.safetensors"], other.weights()["model/model.safetensors"]
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


@pytest.mark.parametrize("processes", [1, 2])
def test_they_stop_together_and_go_on_as_one_or_as_two(
    processes: int, stopped: Path, alone: Ended, pair: Pair, tmp_path: Path
) -> None:
    """Each step has the rows that it has in one process that nothing interrupts."""
    shutil.copytree(stopped / "stage", tmp_path / "stage")
    expected = {step: sorted(rows) for step, rows in alone.rows().items()}
    resumed = Ended(tmp_path / "stage", tmp_path / "log")
    if processes == 1:
        answer = pair.servers[0].run(kind="sft", folder=resumed.folder, log=resumed.log)
        assert answer["code"] == 0, answer
        made = {step: sorted(rows) for step, rows in resumed.rows().items()}
    else:
        answers = pair.run(resumed.folder, resumed.log)
        assert [answer["code"] for answer in answers] == [0, 0], answers
        made = rows_of(resumed.log)
    assert rows_of(stopped / "log") == {step: expected[step] for step in (1, 2, 3)}
    assert made == {step: expected[step] for step in (4, 5, 6)}
    assert distance(resumed, alone) < 1e-4  # data-parallel sums are added in another order


def test_one_that_was_stopped_goes_on_as_two_to_the_same_rows(alone: Ended, pair: Pair, tmp_path: Path) -> None:
    folder, first, log = tmp_path / "stage", tmp_path / "first", tmp_path / "log"
    answer = pair.servers[0].run(kind="sft", folder=folder, log=first, signal=["SIGTERM", 4])
    assert answer["said"] == "StageStopped: stopped after step 4"
    assert [answer["code"] for answer in pair.run(folder, log)] == [0, 0]
    expected = {step: sorted(rows) for step, rows in alone.rows().items()}
    assert {step: sorted(rows) for step, rows in Ended(folder, first).rows().items()} | rows_of(log) == expected
    assert set(rows_of(log)) == {5, 6} and distance(Ended(folder, log), alone) < 1e-4


def test_killed_and_gone_on_with_two_end_with_the_bits_of_two(pair: Pair, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert [answer["code"] for answer in pair.run(whole, tmp_path / "whole.log")] == [0, 0]
    started = time.monotonic()
    answers = pair.run(killed, tmp_path / "first.log", own=({}, {"signal": ["SIGKILL", 5]}))
    assert answers[1]["code"] == -signal.SIGKILL
    assert answers[0]["said"].startswith(
        "StageError: another process of the stage ended, so that this one cannot go on"
    )
    assert time.monotonic() - started < 60  # at once, not after the timeout
    assert [answer["code"] for answer in pair.run(killed, tmp_path / "second.log")] == [0, 0]
    assert set(rows_of(tmp_path / "second.log")) == {5, 6}
    one, other = (Ended(folder, folder).weights()["model/model.safetensors"] for folder in (whole, killed))
    assert trl_toys.equal(one, other)


@pytest.mark.parametrize(
    ("hung", "job", "own"),
    [
        (1, {}, ({}, {"signal": ["SIGSTOP", 3]})),
        (0, {}, ({"signal": ["SIGSTOP", 3]}, {})),
        (0, {"hangs": True}, ({}, {})),
    ],
    ids=["in a step", "the first, in a step", "the first, while it prepares rows"],
)
def test_one_that_hangs_does_not_leave_the_other_waiting(
    hung: int, job: Mapping[str, Any], own: Sequence[Mapping[str, Any]], pair: Pair, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    shared = {"kind": "sft", "folder": tmp_path / "stage", "world_size": 2, "port": port, "timeout_seconds": TIMEOUT}
    for rank, server in enumerate(pair.servers):
        server.start(**shared, **job, rank=rank, log=log.with_name(f"log.{rank}"), **own[rank])
    stopped = beside(log.with_name(f"log.{hung}"), "pid")
    try:
        while not (stopped.exists() and is_stopped(int(stopped.read_text()))):
            time.sleep(0.05)
        started = time.monotonic()
        answer = pair.servers[1 - hung].answer()
        waited = time.monotonic() - started
    finally:
        os.kill(int(stopped.read_text()), signal.SIGKILL)
        pair.servers[hung].answer()
    assert answer["said"].startswith(
        f"StageError: another process of the stage did not answer within {TIMEOUT} seconds"
    )
    assert waited < 5 * TIMEOUT  # two cores are shared by all that is tested


def is_stopped(process: int) -> bool:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_both_end_where_a_number_is_not_finite(pair: Pair, tmp_path: Path) -> None:
    answers = pair.run(tmp_path / "stage", tmp_path / "log", breaks=4)
    sentence = "StageError: the weights after step 4 of 6 make no finite loss"
    assert all(answer["said"].startswith(sentence) for answer in answers), answers
    assert [path.name for path in (tmp_path / "stage" / "trainer").iterdir()] == ["checkpoint-2"]
