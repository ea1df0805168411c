"""Data stages killed anywhere, and what they have left damaged: going on gives the files of an undisturbed run."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import data_chaos
import pytest
from data_chaos import FILES, STAGES, Chaos, content

WINDOWS = 30
"""How many of a stage's file-system events it is killed at here; `make chaos` takes each of them."""

DAMAGES = 30


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chaos]:
    running = Chaos(tmp_path_factory.mktemp("base"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def undisturbed(chaos: Chaos, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Any], Any]]:
    """How each stage ends, and the files it leaves, when nothing happens to it."""
    found = {}
    for stage in STAGES:
        folder = tmp_path_factory.mktemp(stage)
        answer = chaos(stage, folder)
        assert answer["code"] == 0, answer
        found[stage] = answer, content(folder)
    return found


def require_same(chaos: Chaos, undisturbed: Any, stage: str, folder: Path, what: str) -> dict[str, Any]:
    """Let the stage go on in its folder, and hold what comes out against the undisturbed run; the folder is deleted."""
    answer = chaos(stage, folder)
    expected, files = undisturbed[stage]
    assert answer["code"] == 0, (what, answer)
    assert content(folder) == files, what
    assert answer["summary"] == expected["summary"], what
    shutil.rmtree(folder)
    return answer


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_goes_on_from_any_moment(chaos: Chaos, undisturbed: Any, tmp_path: Path, stage: str) -> None:
    events = undisturbed[stage][0]["events"]
    for moment in range(1, events + 1, max(1, events // WINDOWS)):
        assert chaos(stage, tmp_path / "stage", kill_at=moment)["code"] == -signal.SIGKILL
        require_same(chaos, undisturbed, stage, tmp_path / "stage", f"killed before event {moment} of {events}")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_goes_on_from_the_middle_of_a_write(chaos: Chaos, undisturbed: Any, tmp_path: Path, stage: str) -> None:
    killed = 0
    for size in (1, 50, 200, 500, 1000, 2000, 4000, 8000):
        code = chaos(stage, tmp_path / "stage", kill_bytes=size)["code"]
        assert code in (0, -signal.SIGXFSZ)
        killed += code != 0
        require_same(chaos, undisturbed, stage, tmp_path / "stage", f"killed after {size} bytes of a file")
    assert killed >= 5


def test_a_stage_that_is_killed_again_and_again_comes_to_its_end(
    chaos: Chaos, undisturbed: Any, tmp_path: Path
) -> None:
    numbers = random.Random(0)
    kills = 0
    for _ in range(60):
        answer = chaos("tokenize", tmp_path / "stage", kill_at=numbers.randrange(5, 60))
        if answer["code"] == 0:
            break
        kills += 1
    assert kills >= 3
    require_same(chaos, undisturbed, "tokenize", tmp_path / "stage", f"killed {kills} times")


# What is left is damaged


def damage_some_file(folder: Path, numbers: random.Random) -> str:
    """Damage one of the files in a folder, and say how."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        return "nothing"
    path = numbers.choice(files)
    whole = bytearray(path.read_bytes())
    how = numbers.choice(["bit", "cut", "empty", "missing", "grown", "strange"])
    if how == "bit" and whole:
        whole[numbers.randrange(len(whole))] ^= 1 << numbers.randrange(8)
        path.write_bytes(whole)
    elif how == "cut":
        path.write_bytes(whole[: numbers.randrange(len(whole) + 1)])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "missing":
        path.unlink()
    elif how == "grown":
        path.write_bytes(whole + b"\0\0")
    else:
        shutil.copyfile(path, path.with_name("9" + path.name))
    return f"{how}: {path.relative_to(folder)}"


def test_damage_to_what_a_killed_stage_has_left_is_found_and_mended(
    chaos: Chaos, undisturbed: Any, tmp_path: Path
) -> None:
    events = undisturbed["tokenize"][0]["events"]
    numbers = random.Random(1)
    for _ in range(DAMAGES):
        moment = numbers.randrange(10, events + 1)
        chaos("tokenize", tmp_path / "stage", kill_at=moment)
        done = [damage_some_file(tmp_path / "stage", numbers) for _ in range(numbers.choice([1, 1, 2]))]
        require_same(chaos, undisturbed, "tokenize", tmp_path / "stage", f"killed at {moment}, then {done}")


@pytest.mark.parametrize(
    "file", ["source.json", "train/00001_00000_doc_shuffled.ds", "held_out/00000_00000_doc_shuffled.ds.index"]
)
def test_a_finished_source_is_made_again_only_where_it_is_damaged(
    chaos: Chaos, undisturbed: Any, tmp_path: Path, file: str
) -> None:
    folder = tmp_path / "stage"
    assert chaos("tokenize", folder)["code"] == 0
    path = folder / "tokens" / "second" / file
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    before = {path: path.stat().st_mtime_ns for path in (folder / "tokens" / "first").rglob("*") if path.is_file()}
    assert len(before) == 3 * (FILES + 1) + 1
    said = [event.get("message") for event in chaos("tokenize", folder)["said"]]
    assert "source 'first' was tokenised before the interruption" in said
    wrong = f"source 'second' was tokenised before the interruption, but {file} is not what was written: "
    assert f"{wrong}it is tokenised again" in said
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    require_same(chaos, undisturbed, "tokenize", folder, file)


# No room on the disk


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_is_told_as_such_and_the_stage_goes_on(
    chaos: Chaos, undisturbed: Any, tmp_path: Path, stage: str
) -> None:
    """The kernel refuses writes beyond a size: another error than a full disk's, on the same way."""
    refused = 0
    for size in (20, 100, 300, 600, 1200):
        answer = chaos(stage, tmp_path / "stage", full_disk=size)
        if answer["code"] != 0:
            refused += 1
            assert errno.EFBIG in answer["errno"], answer
        require_same(chaos, undisturbed, stage, tmp_path / "stage", f"no room after {size} bytes")
    assert refused >= 3


# Several processes


def side_by_side(base: Path, folder: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, data_chaos.__file__, str(base), "tokenize", str(folder)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def processes_of(folder: Path) -> list[int]:
    """Who runs with this folder in its environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if str(folder).encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_a_killed_tokenising_process_ends_the_stage_in_a_sentence(
    chaos: Chaos, undisturbed: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "stage"
    stage = side_by_side(chaos.base, folder, DATA_CHAOS_WORKER="6", DATA_CHAOS_MARK=str(folder))
    answer = json.loads(stage.communicate(timeout=120)[0])
    assert answer["error"] == "StageError" and "a tokenising process was killed" in answer["message"]
    assert processes_of(folder) == []
    assert list((folder / "tokens" / "first" / "train").glob("*.ds")) != []
    require_same(chaos, undisturbed, "tokenize", folder, "killed in a process of the pool")


def test_tokenising_processes_die_with_their_stage(chaos: Chaos, undisturbed: Any, tmp_path: Path) -> None:
    folder = tmp_path / "stage"
    stage = side_by_side(chaos.base, folder, DATA_CHAOS_MARK=str(folder))
    deadline = time.monotonic() + 120
    while len(processes_of(folder)) < 3 and stage.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    stage.kill()
    stage.communicate()
    while processes_of(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_of(folder) == []
    require_same(chaos, undisturbed, "tokenize", folder, "killed above a pool")


def test_processes_side_by_side_change_nothing(chaos: Chaos, undisturbed: Any, tmp_path: Path) -> None:
    answer = json.loads(side_by_side(chaos.base, tmp_path / "stage").communicate(timeout=120)[0])
    expected, files = undisturbed["tokenize"]
    assert answer == expected["summary"] and content(tmp_path / "stage") == files
