"""Dry runs of SmolLM3's five pretraining stages, on the devices that they were trained on, against published numbers.

torchtitan takes over a process, so the dry runs are made in one of their own: this file is also the script it runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from attrs import asdict

from smolrecipe import Workload
from smolrecipe.planning.decoder_size import flops_per_token, parameters_of
from smolrecipe.planning.make import make_plan
from smolrecipe.recipe.compose import compose
from smolrecipe.recipe.structure import structure
from smolrecipe_registry.discovery import load_registry

STAGES = ("pretrain-1", "pretrain-2", "pretrain-3", "long-context-32k", "long-context-64k")
PEAK = 989.5e12
"""Operations per second of an H100, dense bfloat16 (the data sheet's 1,979 with sparsity, halved)."""

GIB = 2**30
WIDTH, LAYERS, HEADS, KV_HEADS, HEAD, HIDDEN, VOCAB = 2048, 36, 16, 4, 128, 11008, 128256
ROTATING = LAYERS * 3 // 4
PARAMETERS = 3_075_098_624


def stage_options() -> dict[str, Any]:
    registry = load_registry()
    path = Path(__file__).parents[2] / "recipes" / "smollm3.yaml"
    plan = make_plan(structure(compose(path), path, registry.catalog), registry.catalog, registry.manager.hook)
    return {name: plan.by_name[name].use for name in STAGES}


@pytest.fixture(scope="module")
def dry(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    target = tmp_path_factory.mktemp("dry") / "results.json"
    done = subprocess.run(
        [sys.executable, __file__, str(target)],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    results: dict[str, dict[str, Any]] = json.loads(target.read_text())
    return results


def total(entry: dict[str, Any]) -> int:
    return sum(value for name, value in entry.items() if name.endswith("_bytes"))


@pytest.mark.parametrize("stage", STAGES)
def test_the_published_model_fits(dry: dict[str, dict[str, Any]], stage: str) -> None:
    entry = dry[stage]
    assert entry["parameters"] == PARAMETERS
    assert entry["tokens_per_step"] == 2_359_296
    assert entry["devices"] == (384 if stage.startswith("pretrain") else 96)
    assert total(entry) < 80 * GIB


def test_operations_per_token(dry: dict[str, dict[str, Any]]) -> None:
    """Facts: 18,451 million for the parameters, 20,262 million with causal attention at 4096 (rounded down there)."""
    flops = dry["pretrain-1"]["flops_per_token"]
    assert flops == pytest.approx(20_262e6, rel=5e-5)
    assert pytest.approx(18_451e6, rel=5e-5) == 6 * PARAMETERS
    attention = flops - 6 * PARAMETERS
    assert attention == 6 * LAYERS * HEADS * 2 * HEAD * 4096 / 2
    for stage, times in (("long-context-32k", 8), ("long-context-64k", 16)):
        assert dry[stage]["flops_per_token"] == 6 * PARAMETERS + times * attention


def test_what_a_plan_counts_without_building_is_what_building_finds(dry: dict[str, dict[str, Any]]) -> None:
    for stage, use in stage_options().items():
        workload = use.component.workload(use.options, {name: Workload() for name in STAGES})
        assert flops_per_token(workload.model, workload.row_length) == dry[stage]["flops_per_token"]
        assert parameters_of(workload.model) == dry[stage]["parameters"]
        assert (workload.steps, workload.tokens_per_step) == (dry[stage]["steps"], dry[stage]["tokens_per_step"])


def test_the_published_days(dry: dict[str, dict[str, Any]]) -> None:
    """Facts: 24 days on 384 H100, 13,985 tokens a second on each, a utilisation of 28.6 %."""
    pretraining = [dry[stage] for stage in STAGES[:3]]
    speed = 0.286 * PEAK / pretraining[0]["flops_per_token"]
    assert speed == pytest.approx(13_985, rel=0.01)
    seconds = sum(entry["steps"] * entry["tokens_per_step"] / (speed * entry["devices"]) for entry in pretraining)
    assert seconds / 86_400 == pytest.approx(24, rel=0.01)
    assert sum(entry["steps"] for entry in pretraining) == 4_720_000


def test_three_stages_have_one_layout(dry: dict[str, dict[str, Any]]) -> None:
    first = {key: value for key, value in dry["pretrain-1"].items() if key != "steps"}
    for stage in STAGES[1:3]:
        assert {key: value for key, value in dry[stage].items() if key != "steps"} == first


@pytest.mark.parametrize(("stage", "shards", "length"), [("pretrain-1", 1, 4096), ("long-context-64k", 4, 65536)])
def test_what_lasts(dry: dict[str, dict[str, Any]], stage: str, shards: int, length: int) -> None:
    """Tensor parallelism halves all but the norms, and context parallelism shards, as FSDP2 does; all in float32."""
    norms = (2 * LAYERS + 1) * WIDTH
    own = ((PARAMETERS - norms) / 2 + norms) / shards
    tables = ROTATING * length * 2 * HEAD * 4
    assert dry[stage]["weight_bytes"] == own * 4 + tables
    assert dry[stage]["gradient_bytes"] == own * 4
    counts = (LAYERS * 9 + 2) * 4
    assert dry[stage]["optimizer_bytes"] == 2 * own * 4 + counts


def test_activations_follow_the_formula(dry: dict[str, dict[str, Any]]) -> None:
    """The counting of arXiv:2205.05198, section 4.1, for grouped queries and a gated network, tp 2 with sequence
    parallelism. Unlike there, the gathered inputs of matrices are kept. Attention as in arXiv:2205.14135.
    """
    tokens, tp = 3 * 4096, 2
    norm = tokens * (2 * WIDTH + 4) / tp + tokens * 2 * WIDTH  # input and scale; the gathered output
    attention = tokens * 2 * (2 * HEADS + 2 * KV_HEADS) * HEAD / tp + tokens * 4 * HEADS / tp
    network = 4 * tokens * 2 * HIDDEN / tp
    angles = ROTATING * tokens * 2 * HEAD * 4
    loss = tokens * VOCAB / tp * 4  # log-probabilities in float32
    expected = LAYERS * (2 * norm + attention + network) + angles + norm + loss
    assert dry["pretrain-1"]["activation_bytes"] == pytest.approx(expected, rel=1e-4)
    # Without sharing keys and values, every device of four has a quarter of the row; they are gathered for attention.
    tokens, cp = 32768 / 4, 4
    norm = tokens * (2 * WIDTH + 4) / tp + tokens * 2 * WIDTH
    attention = tokens * 2 * (2 * HEADS + 2 * KV_HEADS * cp) * HEAD / tp + tokens * 4 * HEADS / tp
    network = 4 * tokens * 2 * HIDDEN / tp
    expected = LAYERS * (2 * norm + attention + network) + tokens * (ROTATING * 2 * HEAD * 4 + VOCAB / tp * 4) + norm
    assert dry["long-context-32k"]["activation_bytes"] == pytest.approx(expected, rel=1e-4)
    # All computed again: every layer keeps its input, which sequence parallelism halves.
    tokens = 65536 / 4
    norm = tokens * (2 * WIDTH + 4) / tp + tokens * 2 * WIDTH
    expected = LAYERS * tokens * 2 * WIDTH / tp + norm + tokens * VOCAB / tp * 4
    assert dry["long-context-64k"]["activation_bytes"] == pytest.approx(expected, rel=1e-3)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(
        json.dumps({name: asdict(use.component.dry_run(use.options)) for name, use in stage_options().items()})
    )
