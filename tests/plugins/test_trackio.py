"""What trackio reads back of a stage: its steps once each, also of one that was killed; and where nothing goes."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from trackio import sqlite_storage

from smolrecipe import StageContext
from smolrecipe_trackio import TrackioOptions, smolrecipe_trackers
from smolrecipe_trackio.database import FOLDER

TRAIN = """
import sys
from pathlib import Path
from smolrecipe import StageContext
from smolrecipe_trackio import TrackioOptions, smolrecipe_trackers

context = StageContext(recipe="mine", stage="sft", folder=Path(sys.argv[1]))
(tracker,) = smolrecipe_trackers()
log = tracker.open(TrackioOptions(), context)
for step in range(int(sys.argv[2]), int(sys.argv[3]) + 1):
    log({"step": step, "steps": 10**6, "loss": 1 / step})
    print(step, flush=True)
"""


def opened(folder: Path, said: list[Any] | None = None, **options: Any) -> Any:
    context = StageContext(recipe="mine", stage="sft", folder=folder, report=(said if said is not None else []).append)
    (tracker,) = smolrecipe_trackers()
    return tracker.open(TrackioOptions(**options), context)


def step(number: int, **numbers: float) -> Mapping[str, Any]:
    return {"step": number, "steps": 10, "time": 1.0, **numbers}


def read(folder: Path, monkeypatch: pytest.MonkeyPatch, project: str = "mine") -> list[dict[str, Any]]:
    """The run as trackio's own programs see it, in a copy, for they write where they look."""
    copy = folder.with_name(f"{folder.name}-copy")
    shutil.copytree(folder / FOLDER, copy, dirs_exist_ok=True)
    monkeypatch.setattr(sqlite_storage, "TRACKIO_DIR", copy)
    assert sqlite_storage.SQLiteStorage.get_projects() == [project]
    assert sqlite_storage.SQLiteStorage.get_runs(project) == ["sft"]
    return sqlite_storage.SQLiteStorage.get_logs(project, "sft")


def steps(folder: Path) -> list[int]:
    with closing(sqlite3.connect(f"file:{folder / FOLDER / 'mine.db'}?mode=ro&immutable=1", uri=True)) as connection:
        return [number for (number,) in connection.execute("SELECT step FROM metrics ORDER BY id")]


def test_steps_are_told_with_their_numbers_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "sft"
    log = opened(folder)
    log({"message": "a sentence"})
    log(step(1, loss=2.5, lr=1e-3))
    log({**step(2, loss=math.nan, huge=10**400, project=7.0), "note": "text", "flag": True, "of": {"web": 1}})
    log(step(2, held_out=1.5))
    log(step(10**30, loss=1.0))
    log({"something": "else"})
    told = [{key: value for key, value in row.items() if key != "timestamp"} for row in read(folder, monkeypatch)]
    assert told[0] == {"step": 1, "loss": 2.5, "lr": 1e-3}
    assert {key: str(value) for key, value in told[1].items()} == {
        "step": "2", "loss": "nan", "huge": "inf", "__project": "7.0",
    }  # fmt: skip
    assert told[2:] == [{"step": 2, "held_out": 1.5}]


def test_a_stage_that_goes_on_tells_no_step_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "sft"
    log = opened(folder)
    for number in range(1, 6):
        log(step(number, loss=float(number)))
    again = opened(folder)
    for number in range(4, 8):
        again(step(number, loss=float(number)))
    rows = read(folder, monkeypatch)
    assert [(row["step"], row["loss"]) for row in rows] == [(number, float(number)) for number in range(1, 8)]


def test_a_stage_killed_at_any_moment_loses_no_step_and_leaves_no_journal(tmp_path: Path) -> None:
    folder = tmp_path / "sft"
    told = 0
    for delay in (0.0, 0.013, 0.031, 0.057):
        command = [sys.executable, "-c", TRAIN, str(folder), str(max(told - 1, 1)), "1000000"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(4):
                told = int(process.stdout.readline())
            time.sleep(delay)
            os.kill(process.pid, signal.SIGKILL)
            for line in process.stdout:
                told = int(line) if line.endswith("\n") else told
    hot = folder / FOLDER / "mine.db-journal"
    hot.write_bytes(b"")  # as a kill leaves one before anything stands in it
    opened(folder)
    found = steps(folder)
    assert found == [*range(1, len(found) + 1)] and told <= len(found) <= told + 1
    assert sorted(path.name for path in (folder / FOLDER).iterdir()) == ["mine.db", "mine.lock"]


def test_a_torn_write_is_taken_back(tmp_path: Path) -> None:
    """A transaction is cut off with its journal on disk, and the database half written."""
    folder = tmp_path / "sft"
    log = opened(folder)
    log(step(1, loss=1.0))
    tear = (
        "import os, sqlite3, sys\nc = sqlite3.connect(sys.argv[1])\nc.execute('PRAGMA cache_size=1')\n"
        "c.execute('BEGIN')\nc.execute(\"UPDATE metrics SET metrics = 'torn' || hex(zeroblob(100000))\")\n"
        'c.execute("INSERT INTO alerts (run_id, timestamp, run_name, title) VALUES (hex(zeroblob(99999)), 1, 1, 1)")\n'
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", tear, str(folder / FOLDER / "mine.db")], check=False)
    assert (folder / FOLDER / "mine.db-journal").stat().st_size > 0
    again = opened(folder)
    assert sorted(path.name for path in (folder / FOLDER).iterdir()) == ["mine.db", "mine.lock"]
    again(step(2, loss=1.0))
    with closing(sqlite3.connect(folder / FOLDER / "mine.db")) as connection:
        assert [row[0] for row in connection.execute("SELECT metrics FROM metrics")] == [b'{"loss":1.0}'] * 2
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


ASTRAY = {
    "TRACKIO_SPACE_ID": "me/space",
    "TRACKIO_SERVER_URL": "http://127.0.0.1:9",
    "TRACKIO_BUCKET_ID": "me/bucket",
    "TRACKIO_DATASET_ID": "me/set",
    "TRACKIO_STORAGE_MODE": "jsonl",
    "TRACKIO_SQLITE_JOURNAL_MODE": "wal",
    "TRACKIO_WEBHOOK_URL": "http://127.0.0.1:9",
    "SPACE_REPO_NAME": "me/space",
    "SYSTEM": "spaces",
}


def test_nothing_goes_anywhere_else_whatever_the_environment_says(tmp_path: Path) -> None:
    """In a process of its own, whose every look for another machine is written down."""
    folder = tmp_path / "sft"
    watched = (
        "import os, socket, sys, threading\nlooked = []\n"
        "def refuse(*asked, **also):\n    looked.append(str(asked))\n    raise OSError('no network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\nbefore = dict(os.environ)\n"
        f"{TRAIN}\nassert looked == [], looked\nassert threading.enumerate() == [threading.main_thread()]\n"
        "assert dict(os.environ) == before"
    )
    environment = {
        **os.environ, **ASTRAY, "HOME": str(tmp_path / "home"), "HF_HOME": str(tmp_path / "hub"),
        "TRACKIO_DIR": str(tmp_path / "elsewhere"), "HF_TOKEN": "hf_s3cr3t",
    }  # fmt: skip
    subprocess.run([sys.executable, "-c", watched, str(folder), "1", "5"], env=environment, cwd=tmp_path, check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sft"]
    assert sorted(path.name for path in (folder / FOLDER).iterdir()) == ["mine.db", "mine.lock"]
    assert steps(folder) == [1, 2, 3, 4, 5]
    assert b"s3cr3t" not in (folder / FOLDER / "mine.db").read_bytes()


def test_the_commands_of_trackio_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "sft"
    log = opened(folder, project="other")
    log(step(1, loss=1.0))
    shutil.copytree(folder / FOLDER, tmp_path / "copy")
    shown = subprocess.run(
        [sys.executable, "-m", "trackio.cli", "list", "runs", "--project", "other", "--json"],
        env={**os.environ, "TRACKIO_DIR": str(tmp_path / "copy")}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(shown.stdout)["runs"] == ["sft"]


@pytest.mark.parametrize("project", ["registry-mine", "mine_system"])
def test_a_project_that_trackio_refuses_costs_the_log_and_not_the_stage(tmp_path: Path, project: str) -> None:
    said: list[Any] = []
    log = opened(tmp_path, said, project=project)
    log(step(1, loss=1.0))
    (told,) = said
    assert told["message"].startswith("trackio is not told of this stage (Project name ")
    assert told["message"].endswith("): all metrics are in metrics.jsonl")


def test_a_database_that_is_none_costs_the_log_and_not_the_stage(tmp_path: Path) -> None:
    said: list[Any] = []
    log = opened(tmp_path, said)
    log(step(1, loss=1.0))
    (tmp_path / FOLDER / "mine.db").write_bytes(b"no database" * 1000)
    log(step(2, loss=1.0))
    log(step(3, loss=1.0))
    opened(tmp_path, said)
    assert [event["message"] for event in said] == [
        "trackio is told no more (file is not a database): all metrics are in metrics.jsonl",
        "trackio is not told of this stage (file is not a database): all metrics are in metrics.jsonl",
    ]


def test_no_thread_is_left(tmp_path: Path) -> None:
    before = threading.enumerate()
    opened(tmp_path)(step(1, loss=1.0))
    assert threading.enumerate() == before
