"""Memory of a running stage: what is counted, who tells it, and that it changes nothing that is published."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from smolrecipe.running import memory
from smolrecipe.running.memory import ON_GPU, RESIDENT, MemoryMeter, memory_text

Write = Callable[..., Path]
Run = Callable[..., subprocess.CompletedProcess[str]]

HOLD = "import sys; held = bytearray(int(sys.argv[1]) * 2**20); print(flush=True); sys.stdin.read()"
MEASURE = """
import subprocess, sys
from smolrecipe.running.memory import RESIDENT, MemoryMeter
print(MemoryMeter(int(sys.argv[1]))()[RESIDENT])
"""


@pytest.fixture(autouse=True)
def every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_MEASURE_EVERY_SECONDS", 0.0)


def test_what_this_process_and_its_children_hold() -> None:
    meter = MemoryMeter(1)
    before = meter()[RESIDENT]
    held = bytearray(300 * 2**20)
    alone = meter()[RESIDENT]
    assert alone - before == pytest.approx(300 / 1024, abs=0.05)
    grandchild = ["sh", "-c", '"$@"; true', "sh", sys.executable, "-c", HOLD, "200"]
    with subprocess.Popen(grandchild, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert meter()[RESIDENT] - alone == pytest.approx(0.2, abs=0.05)
        child.communicate()
    assert meter()[RESIDENT] == pytest.approx(alone, abs=0.02)
    del held


@pytest.mark.parametrize(("processes", "counted"), [(1, 0.0), (2, 0.2)])
def test_of_several_processes_those_of_one_launcher_are_counted(processes: int, counted: float) -> None:
    """This process is the launcher of two: one that holds memory, and one that measures."""
    with subprocess.Popen([sys.executable, "-c", HOLD, "200"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        measured = subprocess.run(
            [sys.executable, "-c", MEASURE, str(processes)], capture_output=True, text=True, check=True
        )
        other.communicate()
    assert float(measured.stdout) == pytest.approx(counted + 0.05, abs=0.05)


def test_a_look_is_not_taken_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_MEASURE_EVERY_SECONDS", 3600.0)
    meter = MemoryMeter(1)
    before = meter()
    held = bytearray(100 * 2**20)
    assert meter() == before
    del held


def test_a_gpu_is_asked_of_an_engine_that_is_there_and_uses_one(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = types.SimpleNamespace(is_initialized=lambda: False, max_memory_allocated=lambda: 35.25 * 2**30)
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    assert ON_GPU not in MemoryMeter(1)()
    cuda.is_initialized = lambda: True
    assert MemoryMeter(1)()[ON_GPU] == 35.25
    monkeypatch.delitem(sys.modules, "torch")
    assert ON_GPU not in MemoryMeter(1)() and "torch" not in sys.modules


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({}, ""), ({RESIDENT: 1.2345}, "memory 1.23 GiB"), ({RESIDENT: 5.0, ON_GPU: 35.2}, "GPU 35.2 GiB"),
        ({RESIDENT: True}, ""), ({RESIDENT: "much"}, ""), ({RESIDENT: 10**400}, ""), ({RESIDENT: float("nan")}, ""),
    ],
)  # fmt: skip
def test_words(numbers: dict[str, object], words: str) -> None:
    assert memory_text(numbers) == words


def test_it_is_told_by_run_and_by_status_and_kept(
    toy_plugin: None, write_recipe: Write, smolrecipe: Run, tmp_path: Path
) -> None:
    recipe = write_recipe("name: toy\nlauncher: {use: direct}\nstages:\n  one: {use: count, to: 3}\n")
    said = smolrecipe("run", recipe, check=0).stderr
    (last,) = [line for line in said.splitlines() if line.startswith("one: step 3/3")]
    loss, told = last.split(", ")[1:]
    assert loss == "loss 0.3333" and told.startswith("memory 0.0") and told.endswith(" GiB")
    (artifact,) = tmp_path.glob("runs/toy/one-*")
    steps = [event for line in (artifact / "metrics.jsonl").open() if "step" in (event := json.loads(line))]
    assert all(0.01 < event[RESIDENT] < 0.5 for event in steps)
    table = smolrecipe("status", "runs/toy", check=0).stdout.splitlines()
    assert table[0].split() == ["stage", "status", "step", "loss", "tokens/s", "memory", "left"]
    assert f"{steps[-1][RESIDENT]:.3g} GiB" in table[1]
    (stage,) = json.loads(smolrecipe("status", "runs/toy", "--json", check=0).stdout)["stages"]
    assert stage["numbers"][RESIDENT] == steps[-1][RESIDENT]
