"""Killed anywhere and started again: the same weights to the bit, and every step on the rows it would have had."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import trl_toys
from trl_chaos import Ended, Server

KINDS = ("sft", "preference")
SHORT = 6
"""Kills of each stage in the short form; the long form kills before every event."""
STEPS, EVERY = 6, 2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(trl_toys.base_artifact(tmp_path_factory))
    yield server
    server.end()


@pytest.fixture(scope="module")
def whole(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, tuple[Ended, int]]:
    """Each stage without an interruption, and how many events it has."""
    made = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp(kind)
        ended = Ended(folder / "stage", folder / "rows.log")
        answer = server.run(kind=kind, folder=ended.folder, log=ended.log)
        assert answer["code"] == 0, answer
        assert {step: len(rows) for step, rows in ended.rows().items()} == (
            dict.fromkeys(range(1, STEPS + 1), 4 if kind == "sft" else 8)
        )
        made[kind] = (ended, int(answer["said"]))
    return made


def check(kind: str, server: Server, whole: tuple[Ended, int], folder: Path, kill_at: int, torn: bool) -> int:
    """Kill the stage there and run it again; returns the step that it went on after."""
    reference, _ = whole
    first, second = Ended(folder / "stage", folder / "first.log"), Ended(folder / "stage", folder / "second.log")
    killed = server.run(kind=kind, folder=first.folder, log=first.log, kill_at=kill_at)
    assert killed["code"] == -signal.SIGKILL, killed
    if torn:
        tear(first.folder)
    answer = server.run(kind=kind, folder=second.folder, log=second.log)
    assert answer["code"] == 0, answer
    expected = reference.rows()
    assert first.rows().items() <= expected.items() or cut_short(first.rows(), expected)
    steps = second.rows()
    resumed_after = min(steps, default=STEPS + 1) - 1
    assert resumed_after % EVERY == 0 and steps == {
        step: rows for step, rows in expected.items() if step > resumed_after
    }
    weights, theirs = second.weights(), reference.weights()
    assert weights.keys() == theirs.keys()
    assert all(trl_toys.equal(weights[path], theirs[path]) for path in theirs)
    assert second.files() == reference.files()
    ours, theirs_told = second.artifact(), reference.artifact()
    for told in (ours, theirs_told):
        told["summary"] = {name: value for name, value in told["summary"].items() if not name.startswith("last_")}
    assert ours == theirs_told
    return resumed_after


def cut_short(rows: Mapping[int, list[str]], expected: Mapping[int, list[str]]) -> bool:
    """Whether only the last step is not whole."""
    last = max(rows)
    return all(rows[step] == expected[step] for step in rows if step < last) and (
        rows[last] == expected[last][: len(rows[last])]
    )


def tear(folder: Path) -> None:
    """Cut the file that was written last in half, as a machine that dies may leave it."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    if files:
        newest = max(files, key=lambda path: path.stat().st_mtime_ns)
        with newest.open("r+b") as file:
            file.truncate(newest.stat().st_size // 2)


@pytest.mark.parametrize("kind", KINDS)
def test_killed_anywhere_it_ends_with_the_same_bits(
    kind: str, server: Server, whole: Mapping[str, tuple[Ended, int]], tmp_path: Path
) -> None:
    events = whole[kind][1]
    drawn = random.Random(5)
    places = [round((number + drawn.random()) * events / SHORT) for number in range(SHORT)]
    for number, place in enumerate(places):
        check(kind, server, whole[kind], tmp_path / str(place), max(1, place), torn=bool(number % 2))


@pytest.mark.chaos
@pytest.mark.parametrize("torn", [False, True], ids=["killed", "torn"])
@pytest.mark.parametrize("kind", KINDS)
def test_killed_before_every_event_it_ends_with_the_same_bits(
    kind: str, torn: bool, server: Server, whole: Mapping[str, tuple[Ended, int]], tmp_path: Path
) -> None:
    events = whole[kind][1]
    resumed = [check(kind, server, whole[kind], tmp_path / str(place), place, torn) for place in range(1, events + 1)]
    assert set(resumed) == {0, 2, 4, 6}  # the kills did reach every stretch of the stage
