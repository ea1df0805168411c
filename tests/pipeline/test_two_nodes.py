"""A pretraining stage on two machines by hand, as docs/clusters.md says: two groups of processes on loopback."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file

RECIPE = """\
name: wide
model:
  decoder:
    {use: decoder, hidden_size: 32, num_layers: 2, num_heads: 4, intermediate_size: 48, vocab_size: 300, init_std: 0.15}
  gqa: {use: gqa, num_heads: 4, num_kv_heads: 2}
  rope: {use: rope, theta: 10000.0, max_positions: 32}
stages:
  tokenizer:
    use: train_tokenizer
    vocab_size: 300
    data: {sums: {use: arithmetic, style: text, split: train, rows: 50}}
  tokens:
    use: tokenize
    tokenizer: tokenizer
    sources: {sums: {use: arithmetic, style: text, split: train, rows: 400}}
  pretrain:
    use: pretrain
    tokenizer: tokenizer
    data: {use: mixture, from: [tokens], weights: {sums: 1.0}}
    steps: STEPS
    trajectory_steps: STEPS
    sequence_length: 32
    global_batch: 8
    micro_batch: 2
    optimizer: {use: adamw, lr: 1.0e-2}
    schedule: {use: wsd, warmup_steps: 3, decay_start: 5, decay_steps: 1, min_factor: 0.1}
    precision: float32
    checkpoint_every: 1000
    parallelism: {device: cpu, data_parallel: 2}
"""

pytestmark = pytest.mark.pipeline

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pretraining starts from, made once."""
    folder = tmp_path_factory.mktemp("two nodes")
    (folder / "recipe.yaml").write_text(RECIPE.replace("STEPS", "6"))
    (folder / "long.yaml").write_text(
        RECIPE.replace("STEPS", "60").replace("checkpoint_every", "seed: 5\n    checkpoint_every")
    )
    for stage in ("tokenizer", "tokens"):
        done = run(folder, "run", "recipe.yaml", "--only", stage)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    processes: list[subprocess.Popen[str]] = []

    def start(rank: int, recipe: str, port: int, *options: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "smolrecipe", "launch", "node", recipe, "pretrain", "--nodes", "2",
             "--node-rank", str(rank), "--rendezvous", f"127.0.0.1:{port}", *options],
            cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()
    for path in folder.glob("runs/wide/pretrain-*"):
        path.unlink() if path.is_file() else shutil.rmtree(path)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "smolrecipe", *arguments],
        cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ended(process: subprocess.Popen[str], code: int) -> str:
    output, errors = process.communicate(timeout=240)
    assert process.returncode == code, errors
    return output + errors


def weights(folder: Path) -> dict[str, bytes]:
    (file,) = folder.glob("runs/wide/pretrain-*/model/model.safetensors")
    return {name: tensor.tobytes() for name, tensor in load_file(file).items()}


def test_two_machines_train_what_one_does(folder: Path, start: Start) -> None:
    port = free_port()
    second, first = start(1, "recipe.yaml", port), start(0, "recipe.yaml", port)
    assert "stage 'pretrain' is published" in ended(first, 0)
    ended(second, 0)
    wide = weights(folder)
    (artifact,) = folder.glob("runs/wide/pretrain-*")
    artifact.rename(folder / "wide")
    one = run(folder, "run", "recipe.yaml", "--only", "pretrain")
    assert one.returncode == 0, one.stderr
    assert weights(folder) == wide
    ended(start(1, "recipe.yaml", port), 0)  # come too late: published


@pytest.mark.chaos
def test_machine_0_is_stopped_and_both_go_on(folder: Path, start: Start) -> None:
    port = free_port()
    first, second = start(0, "long.yaml", port), start(1, "long.yaml", port)
    wait_for_step(folder, second)
    first.send_signal(signal.SIGTERM)
    told = ended(first, 143)
    assert re.search(
        r"interrupted in stage 'pretrain', saved after step \d+\n  to go on: smolrecipe launch node ", told
    )
    assert "machine 0 says why" in ended(second, 1)
    port = free_port()
    again, beside = start(0, "long.yaml", port, "--id", "2"), start(1, "long.yaml", port, "--id", "2")
    assert "pretrain: goes on (its last checkpoint is of step" in ended(again, 0)
    ended(beside, 0)


def wait_for_step(folder: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not any(b'"step"' in path.read_bytes() for path in folder.glob("runs/wide/pretrain-*.partial/metrics.jsonl")):
        assert time.monotonic() < end and process.poll() is None, process.communicate()
        time.sleep(0.1)


@pytest.mark.parametrize("killed", [0, 1])
@pytest.mark.chaos
def test_a_machine_is_lost_and_the_other_ends(folder: Path, start: Start, killed: int) -> None:
    port = free_port()
    processes = [start(rank, "long.yaml", port, "--id", f"lost-{killed}") for rank in (0, 1)]
    wait_for_step(folder, processes[1])
    processes[killed].kill()
    processes[killed].wait()
    told = ended(processes[1 - killed], 1)
    assert ("to go on: smolrecipe launch node" if killed else "machine 0 says why") in told
