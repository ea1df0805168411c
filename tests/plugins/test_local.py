"""The local launcher: counting devices without CUDA, and processes that really start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import smolrecipe_local
from smolrecipe import Devices
from smolrecipe_local import LocalOptions, capacity, command, environment, smolrecipe_launchers

OPTIONS = LocalOptions()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Provide a machine without GPUs, as the folder that stands for /dev."""
    monkeypatch.setattr(smolrecipe_local, "DEVICE_FOLDER", tmp_path)
    monkeypatch.setattr(smolrecipe_local, "DRIVER_FOLDER", tmp_path / "driver")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


def add_gpus(machine: Path, count: int) -> None:
    for name in (*(f"nvidia{number}" for number in range(count)), "nvidiactl", "nvidia-uvm", "nvidia-caps"):
        (machine / name).touch()


def test_no_gpus(machine: Path) -> None:
    assert capacity(OPTIONS) == {"cuda": 0}


def test_device_files_are_counted_and_control_files_are_not(machine: Path) -> None:
    add_gpus(machine, 8)
    assert capacity(OPTIONS) == {"cuda": 8}


def test_the_driver_s_list_counts_where_there_are_no_device_files(machine: Path) -> None:
    for address in ("0000:18:00.0", "0000:2a:00.0"):
        (machine / "driver" / address).mkdir(parents=True)
    assert capacity(OPTIONS) == {"cuda": 2}


@pytest.mark.parametrize(
    ("visible", "count"),
    [("", 0), ("0", 1), ("2, 0", 2), ("-1", 0), ("0,-1,1", 1), ("0,7", 1), ("GPU-8932f937,GPU-46e1", 2), ("MIG-1", 1)],
)
def test_cuda_visible_devices_is_read_as_cuda_does(
    machine: Path, monkeypatch: pytest.MonkeyPatch, visible: str, count: int
) -> None:
    add_gpus(machine, 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert capacity(OPTIONS) == {"cuda": count}


def test_choosing_devices_does_not_make_them(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert capacity(OPTIONS) == {"cuda": 0}


def test_a_machine_that_hides_its_gpus_is_not_said_to_have_none(machine: Path) -> None:
    (machine / "dxg").touch()  # Windows Subsystem for Linux
    assert capacity(OPTIONS) == {}


def test_one_process_starts_plainly() -> None:
    assert command(OPTIONS, Devices(), ["smolrecipe", "_stage", "task.json"]) == [
        sys.executable, "-m", "smolrecipe", "_stage", "task.json",
    ]  # fmt: skip


def test_several_processes_find_each_other_and_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(smolrecipe_local, "count_cores", lambda: 7)
    (tmp_path / "worker.py").write_text(
        "import json, os, pathlib, sys\n"
        "names = ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT', 'OMP_NUM_THREADS')\n"
        "found = {name: os.environ[name] for name in names} | {'arguments': sys.argv[1:]}\n"
        "found['gpus'] = os.environ['CUDA_VISIBLE_DEVICES']\n"
        "pathlib.Path(f'{os.environ[\"RANK\"]}.json').write_text(json.dumps(found))\n"
    )
    devices = Devices(processes=2)
    subprocess.run(
        command(OPTIONS, devices, ["worker", "_stage", "task.json"]),
        env={**os.environ, **environment(OPTIONS, devices)},
        cwd=tmp_path,
        check=True,
        timeout=60,
        capture_output=True,
    )
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert (first["RANK"], second["RANK"]) == ("0", "1")
    assert (first["LOCAL_RANK"], second["LOCAL_RANK"]) == ("0", "1")
    assert first["WORLD_SIZE"] == "2"
    assert (first["MASTER_ADDR"], first["MASTER_PORT"]) == (second["MASTER_ADDR"], second["MASTER_PORT"])
    assert first["OMP_NUM_THREADS"] == "3"
    assert first["arguments"] == ["_stage", "task.json"]
    assert first["gpus"] == ""


def test_threads_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert "OMP_NUM_THREADS" not in environment(OPTIONS, Devices(processes=2))
    assert environment(LocalOptions(threads=2), Devices(processes=2))["OMP_NUM_THREADS"] == "2"


def test_gpu_stages_keep_their_environment() -> None:
    assert environment(OPTIONS, Devices(processes=8, device="cuda")) == {}


def test_the_launcher_is_offered() -> None:
    (launcher,) = smolrecipe_launchers()
    assert launcher.name == "local"
