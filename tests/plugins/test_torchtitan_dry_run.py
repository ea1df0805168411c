"""Dry runs of the pretraining stage against real training, arithmetic, and a formula for what layers keep."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import titan_dry_runs
from titan_dry_runs import (
    CASES,
    FLOAT,
    HEAD,
    HEADS,
    HIDDEN,
    LAYERS,
    LAYOUTS,
    LENGTH,
    LONG,
    SAMPLES,
    VOCAB,
    WIDTH,
)

from smolrecipe_torchtitan import PretrainOptions


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("dry")
    done = subprocess.run(
        [sys.executable, titan_dry_runs.__file__, str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr[-6000:]
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return results


# --- against real training --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_a_dry_run_tells_what_a_real_step_keeps(measured: dict[str, Any], case: str) -> None:
    """Weights, gradients and optimizer state to the byte."""
    dry, real = measured["dry"][case], measured["real"][case]
    for kind, field in (("weights", "weight_bytes"), ("gradients", "gradient_bytes"), ("optimizer", "optimizer_bytes")):
        assert dry[field] == real[kind], kind


@pytest.mark.parametrize("case", [case for case in CASES if case != "chunked"])
def test_activations_are_what_autograd_saves(measured: dict[str, Any], case: str) -> None:
    assert measured["dry"][case]["activation_bytes"] == measured["real"][case]["activations"]


# --- against arithmetic -----------------------------------------------------------------------------------------------

MATRICES = LAYERS * (4 * WIDTH * HEADS * HEAD + 3 * WIDTH * HIDDEN)
NORMS = (2 * LAYERS + 1) * WIDTH
EMBEDDING = VOCAB * WIDTH
PARAMETERS = MATRICES + NORMS + EMBEDDING
TABLES = LAYERS * LENGTH * 2 * HEAD * FLOAT
"""Cosines and sines of every layer."""


@pytest.mark.parametrize("case", [*CASES, *LAYOUTS])
def test_sizes_of_shards(measured: dict[str, Any], case: str) -> None:
    options = {**CASES, **LAYOUTS}[case]
    layout = options.parallelism
    # FSDP2 shards over data_parallel and context_parallel; tensor parallelism leaves the norms whole.
    shards = layout.data_parallel * layout.context_parallel
    extra = EMBEDDING if case == "untied" else 0
    parameters = ((MATRICES + EMBEDDING + extra) / layout.tensor_parallel + NORMS) / shards
    dry = {**measured["dry"], **measured["layouts"]}[case]
    assert dry["weight_bytes"] == parameters * FLOAT + TABLES
    if options.optimizer.options.kind in ("fused", "foreach"):
        # Two moments, and a step count for each parameter: embedding and head where untied, norms, matrices.
        counts = 1 + bool(extra) + 1 + LAYERS * 9
        assert dry["optimizer_bytes"] == 2 * parameters * FLOAT + counts * FLOAT
    # The first chunk makes the gradient that the others are added to; the norm's, which comes last with another chunk's
    # in one buffer, keeps that alive.
    buffer = EMBEDDING if options.loss_chunks > 1 else 0
    assert dry["gradient_bytes"] == (parameters + buffer) * FLOAT
    assert dry["parameters"] == PARAMETERS + extra
    assert dry["devices"] == layout.processes
    assert dry["tokens_per_step"] == 8 * LENGTH * (2 if case == "many" else 1)
    assert dry["steps"] == 7


def test_optimizers_are_asked_for_their_state(measured: dict[str, Any]) -> None:
    dry = measured["dry"]
    assert dry["momentum"]["optimizer_bytes"] == PARAMETERS * FLOAT
    rows = LAYERS * (4 * WIDTH + 2 * HIDDEN + WIDTH) + (2 * LAYERS + 1) * WIDTH + VOCAB
    assert dry["rows"]["optimizer_bytes"] == rows * FLOAT


def kept_on_a_gpu(options: PretrainOptions) -> float:
    """Bytes that a layout's layers and loss keep, by the counting of arXiv:2205.05198, section 4.1, for this decoder.

    Its 34 bytes a token and channel are those of a layer with GELU and dropout in 16 bits; here a gated network keeps
    four hidden vectors and there is no dropout, and gathered inputs of matrices are kept (there, gathered again).
    """
    layout = options.parallelism
    tokens = options.micro_batch * LENGTH / layout.context_parallel
    t = layout.tensor_parallel
    share = t if layout.sequence_parallel else 1
    norm = tokens * (2 * WIDTH + FLOAT) / share + tokens * 2 * WIDTH  # input and scale; output, the matrices' input
    heads = tokens * 2 * HEADS * HEAD / t
    whole = layout.context_parallel  # keys and values are gathered
    # Queries, keys, values, output, log-sum-exp; the table's rows.
    attention = heads * (1 + 2 * whole + 1) + tokens * HEADS / t * FLOAT + tokens * 2 * HEAD * FLOAT
    network = tokens * 4 * 2 * HIDDEN / t
    # Only inputs of layers are left where all else is computed again.
    layer = 2 * norm + attention + network if options.activation_checkpointing == "none" else tokens * 2 * WIDTH / share
    loss = tokens * VOCAB / t * FLOAT  # log-probabilities
    return LAYERS * layer + norm + loss + 3 * tokens * LONG


@pytest.mark.parametrize("case", [case for case in LAYOUTS if case not in ("selective", "chunked on a GPU")])
def test_activations_follow_the_formula(measured: dict[str, Any], case: str) -> None:
    """Within 2 %: single rows and numbers, and the whole batch that a slice is a view of, are left out."""
    formula = kept_on_a_gpu(LAYOUTS[case])
    assert measured["layouts"][case]["activation_bytes"] == pytest.approx(formula, rel=0.02)


def test_what_saves_memory_saves_it(measured: dict[str, Any]) -> None:
    kept = {name: entry["activation_bytes"] for name, entry in measured["layouts"].items()}
    other = {name: entry["other_bytes"] for name, entry in measured["layouts"].items()}
    assert kept["full"] < kept["selective"] < kept["one GPU"] < kept["larger batch"]
    assert kept["tp"] < kept["tp, whole sequences"] < kept["one GPU"]
    logits = SAMPLES * LENGTH * VOCAB * FLOAT
    assert kept["one GPU"] - kept["chunked on a GPU"] > logits / 2
    # At the loss: two more float32 copies of the logits at least, which chunks make smaller.
    assert other["one GPU"] > 2 * logits
    assert kept["chunked on a GPU"] + other["chunked on a GPU"] < kept["one GPU"] + other["one GPU"] - logits / 2


def test_the_sum_bounds_the_peak(measured: dict[str, Any]) -> None:
    for name, traced in measured["peak"].items():
        dry = measured["layouts"][name]
        total = sum(value for field, value in dry.items() if field.endswith("_bytes"))
        assert traced["peak"] <= total <= 1.5 * traced["peak"]


def test_operations_per_token(measured: dict[str, Any]) -> None:
    """6 for each parameter; a query and a value in each head, forward and twice backward, over half of the row."""
    attention = 6 * LAYERS * HEADS * 2 * HEAD * LENGTH / 2
    assert measured["dry"]["alone"]["flops_per_token"] == 6 * PARAMETERS + attention
    # An embedding that is only looked up multiplies nothing.
    assert measured["dry"]["untied"]["flops_per_token"] == 6 * PARAMETERS + attention


# --- refusals and traces ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("heads", "torchtitan cannot build this stage's layout: tensor_parallel_degree (8) must divide n_heads (4)"),
        ("batch", "torchtitan cannot build this stage's layout: global batch size must be multiple"),
        ("pipeline", "there is no dry run of a pipeline (pipeline_parallel 2)"),
        ("peeks", "this stage's model cannot be traced without its devices: aten._local_scalar_dense"),
    ],
)
def test_what_cannot_be_built_is_refused(measured: dict[str, Any], case: str, sentence: str) -> None:
    assert measured["refused"][case].startswith(sentence)


def test_nothing_is_left_behind(measured: dict[str, Any]) -> None:
    assert measured["after"]["norm"] < 1e-4
    assert measured["after"]["group"] is False
    assert measured["after"]["world"] == os.environ.get("WORLD_SIZE")
