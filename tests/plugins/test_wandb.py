"""What Weights & Biases has of a stage in its offline mode, read back from its files; and what it never has."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wandb.proto import wandb_internal_pb2

TRAIN = """
import json, sys
from pathlib import Path
from smolrecipe import StageContext
from smolrecipe_wandb import WandbOptions, smolrecipe_trackers

first, last, options = int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
said = []
context = StageContext(recipe="my-recipe", stage="sft", folder=Path(sys.argv[1]), report=said.append)
(tracker,) = smolrecipe_trackers()
log = tracker.open(WandbOptions(**{"mode": "offline", **options}), context)
for step in range(first, last + 1):
    log({"step": step, "steps": 9, "loss": 1 / step, "note": "text", "flag": True, "time": 1.0})
    log({"message": "a sentence"})
print(json.dumps(said))
"""


def train(folder: Path, first: int, last: int, **options: Any) -> list[dict[str, Any]]:
    """Tell the tracker of these steps in a process of its own, which ends as a stage's does."""
    environment = {**os.environ, "WANDB_API_KEY": "f" * 40, "SECRET_TOKEN": "s3cr3t-value", "HOME": str(folder)}
    command = [sys.executable, "-c", TRAIN, str(folder), str(first), str(last), json.dumps(options)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
    said: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return said


BLOCK = 32768
"""Bytes of a block of LevelDB's log format, which a .wandb file has after a header of 7 bytes in the first of them."""


def entries(content: bytes) -> Iterator[bytes]:
    """The entries of a .wandb file: pieces of checksum (4 bytes), length (2), kind (1: whole, 4: last) and data."""
    entry, place = b"", 7
    while place + 7 <= len(content):
        if BLOCK - place % BLOCK < 7:
            place += BLOCK - place % BLOCK
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        entry += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield entry
            entry = b""


def records(folder: Path) -> list[Any]:
    """All that the offline runs below a folder hold, the oldest first."""
    found = []
    for file in sorted(folder.rglob("*.wandb"), key=lambda path: path.stat().st_mtime):
        for entry in entries(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(entry)
            found.append(record)
    return found


def history(folder: Path) -> list[dict[str, Any]]:
    items = [record.history.item for record in records(folder) if record.WhichOneof("record_type") == "history"]
    return [{(item.key or item.nested_key[0]): json.loads(item.value_json) for item in row} for row in items]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a stage that was interrupted after step 5 and went on after step 3."""
    folder = tmp_path_factory.mktemp("runs") / f"sft-{'0' * 12}.partial"
    folder.mkdir()
    assert train(folder, 1, 5, project="tiny", tags=["a"]) == []
    assert train(folder, 4, 7, project="tiny", tags=["a"]) == []
    return folder


def test_every_step_is_told_with_its_numbers_alone(stage: Path) -> None:
    rows = history(stage)
    assert [row["_step"] for row in rows] == [1, 2, 3, 4, 5, 4, 5, 6, 7]
    assert all(row["loss"] == pytest.approx(1 / row["_step"]) for row in rows)
    assert {key for row in rows for key in row if not key.startswith("_")} == {"loss"}


def test_a_stage_that_goes_on_is_the_same_run(stage: Path) -> None:
    runs = [record.run for record in records(stage) if record.WhichOneof("record_type") == "run"]
    assert len({run.run_id for run in runs}) == 1
    assert {(run.project, run.run_group, run.display_name, tuple(run.tags)) for run in runs} == {
        ("tiny", "my-recipe", "sft", ("a",))
    }


def test_no_secret_and_no_command_line_is_kept(stage: Path) -> None:
    for path in [path for path in stage.rglob("*") if path.is_file()]:
        content = path.read_bytes()
        for secret in (b"f" * 40, b"s3cr3t-value", b"WandbOptions(**"):
            assert secret not in content, path


def test_without_a_network_the_stage_says_so_once_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "5")
    (said,) = train(tmp_path, 1, 3, mode="online")
    assert said["message"].startswith("wandb is not told of this stage (")
    assert said["message"].endswith("): all metrics are in metrics.jsonl")
