"""Two processes that share a stage in every way compute what one does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from titan_toys import BATCH, STEPS, losses

pytest_plugins = ["titan_jobs"]
"""Where the fixtures come from; one training for all modules."""


def test_two_processes_compute_what_one_does(together: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    # Sums are taken in another order, and twelve steps at a large rate carry the difference on.
    assert losses(together[0]["fsdp"]) == pytest.approx(losses(alone["first"]), abs=1e-4)
    assert together[0]["fsdp"]["before"] == pytest.approx(alone["first"]["before"], abs=1e-5)
    assert together[0]["fsdp"]["after"] == pytest.approx(alone["first"]["after"], abs=1e-4)
    for name, reference in (("tensor", "first"), ("context", "first"), ("pipeline", "private")):
        assert losses(together[0][name]) == pytest.approx(losses(alone[reference])[:4], abs=1e-4), name
        assert together[0][name]["before"] == pytest.approx(alone[reference]["before"], abs=1e-5), name
    assert together[1]["fsdp"]["steps"] == []  # the first process reports for all


def test_the_samples_do_not_depend_on_the_number_of_processes(
    together: list[dict[str, Any]], alone: dict[str, Any], folder: Path
) -> None:
    assert alone["first"]["read"] == list(range(STEPS * BATCH))
    assert batches(together, "fsdp", first=0) == [set(range(n * BATCH, (n + 1) * BATCH)) for n in range(STEPS)]
    # Interrupted as one process and resumed as two, with other micro-batches.
    done = together[0]["resumed"]["steps"][0]["step"] - 1
    assert done in (2, 4, 6)
    assert batches(together, "resumed", first=done) == [
        set(range(n * BATCH, (n + 1) * BATCH)) for n in range(done, STEPS)
    ]
    assert losses(together[0]["resumed"]) == pytest.approx(losses(alone["first"])[done:], abs=1e-4)


def batches(results: list[dict[str, Any]], name: str, first: int) -> list[set[int]]:
    """The samples of every step, over all processes; each must have read its own half."""
    reads = [result[name]["read"] for result in results]
    half = BATCH // 2
    assert {len(read) for read in reads} == {(STEPS - first) * half}
    steps = [[set(read[n * half : (n + 1) * half]) for read in reads] for n in range(STEPS - first)]
    assert all(not (one & other) for one, other in steps)
    return [one | other for one, other in steps]


def test_pipelines_export_too(together: list[dict[str, Any]], folder: Path) -> None:
    from safetensors import safe_open

    with safe_open(folder / "pipeline" / "model" / "model.safetensors", framework="numpy") as file:
        names = set(file.keys())
    assert {"model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight", "lm_head.weight"} <= names
    assert len(names) == 3 + 2 * 9
