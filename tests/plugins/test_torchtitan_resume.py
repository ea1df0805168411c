"""Pretraining that was interrupted goes on to the same bits; damaged checkpoints are not used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from titan_toys import BATCH, STEPS, weights

pytest_plugins = ["titan_jobs"]
"""Where the fixtures come from; one training for all modules."""


def test_killed_and_resumed_is_bitwise_the_same(resumed: dict[str, Any], alone: dict[str, Any], folder: Path) -> None:
    steps = [event["step"] for event in resumed["cut"]["steps"]]
    assert steps[0] in (3, 5, 7)  # a checkpoint every second step, the last of which may not have been finished
    assert steps[-1] == STEPS
    assert resumed["cut"]["read"] == alone["first"]["read"][(steps[0] - 1) * BATCH :]
    assert weights(folder, "cut") == weights(folder, "first")
    assert resumed["cut"]["before"] == alone["first"]["before"]
    assert resumed["cut"]["after"] == alone["first"]["after"]
    checkpoint = f"checkpoints/step-{STEPS}/process-0.safetensors"
    assert (folder / "cut" / checkpoint).read_bytes() == (folder / "first" / checkpoint).read_bytes()


def test_a_finished_stage_run_again_trains_no_further(resumed: dict[str, Any]) -> None:
    assert resumed["again"]["steps"] == []
    assert resumed["again"]["after"] == resumed["cut"]["after"]


@pytest.mark.parametrize("case", ["flipped", "shortened"])
def test_a_damaged_checkpoint_is_not_resumed_from(
    resumed: dict[str, Any], alone: dict[str, Any], folder: Path, case: str
) -> None:
    assert any("damaged" in sentence for sentence in resumed[case]["said"])
    assert resumed[case]["steps"][0]["step"] < resumed["cut"]["steps"][0]["step"]
    assert weights(folder, case) == weights(folder, "first")
