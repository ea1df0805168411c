"""The losses that ship, through the stage that trains with them, are TRL's own over ten optimizer steps.

TRL renders, tokenises, pads and computes its loss by itself; the stage does all of that its own way. Both run in
float32 on one thread, where they come to the same bits: the bound is 0, and 1e-6 for the rewards that both only log.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from trl_alone import trained_by_trl
from trl_toys import Run, equal, preference_options, run

from smolrecipe import Loss, PreferenceBatch, PreferenceLoss, Use
from smolrecipe_registry.discovery import load_registry

pytest_plugins = ["trl_fixtures"]
pytestmark = pytest.mark.usefixtures("one_thread")

TRL_NAMES = {"apo_zero": "apo_zero", "apo_down": "apo_down", "dpo": "sigmoid", "ipo": "ipo"}
UNMOVED = {"apo_zero": 1.0, "apo_down": 1.0, "dpo": math.log(2), "ipo": 25.0}
"""Losses where the policy is the reference, with a beta of 0.1."""

APO = ("apo_zero", "apo_down")


@pytest.fixture(scope="module")
def losses() -> dict[str, Loss]:
    """As a recipe finds them: through the entry points of the plugins."""
    catalog = load_registry(("apo", "dpo", "trl")).catalog
    return {component.name: component for component, _ in catalog if isinstance(component, Loss)}


@pytest.fixture(scope="module")
def trained(
    losses: dict[str, Loss], base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Run, list[dict[str, Any]], dict[str, torch.Tensor]]]:
    """Ten steps with a loss by the stage, and TRL's log and weights."""
    made: dict[str, Any] = {}

    def train(name: str) -> Any:
        if name not in made:
            options = preference_options(Use(losses[name], losses[name].options()), attention="sdpa")  # as TRL has it
            ours = run(options, tmp_path_factory.mktemp(name) / "stage", base)
            made[name] = (ours, *trained_by_trl(TRL_NAMES[name], options, base, tmp_path_factory.mktemp(name)))
        return made[name]

    return train


@pytest.mark.parametrize("name", TRL_NAMES)
def test_ten_steps_are_bitwise_trls_own(name: str, trained: Any) -> None:
    ours, history, weights = trained(name)
    assert len(ours.steps) == len(history) == 10
    assert [event["loss"] for event in ours.steps] == [entry["loss"] for entry in history]
    assert [event["grad_norm"] for event in ours.steps] == [entry["grad_norm"] for entry in history]
    assert equal(ours.weights(), weights)
    if name != "ipo":  # TRL logs its rewards of IPO summed, the component per token, which is what its loss compares
        for mine, theirs in (("reward_margin", "rewards/margins"), ("reward_accuracy", "rewards/accuracies")):
            assert [event[mine] for event in ours.steps[1:]] == pytest.approx(
                [entry[theirs] for entry in history[1:]], abs=1e-6
            )


@pytest.mark.parametrize("name", TRL_NAMES)
def test_a_policy_that_is_its_reference_has_the_loss_of_no_change(name: str, trained: Any) -> None:
    """In the first step of training and on held-out pairs before it; APO's is exactly 1."""
    ours, _, _ = trained(name)
    found = (ours.steps[0]["loss"], ours.measure("held-out preference loss").before)
    assert found == ((1.0, 1.0) if name in APO else pytest.approx((UNMOVED[name],) * 2, rel=1e-7))
    assert ours.measure("reward margin").before == 0.0
    assert ours.steps[1]["loss"] != ours.steps[0]["loss"]


def test_the_losses_lead_to_different_weights(trained: Any) -> None:
    """So that the equality above says something of each."""
    weights = [trained(name)[0].weights() for name in TRL_NAMES]
    assert not any(equal(one, other) for number, one in enumerate(weights) for other in weights[:number])


def swapped(batch: PreferenceBatch) -> PreferenceBatch:
    return attrs.evolve(
        batch,
        policy_chosen=batch.policy_rejected,
        policy_rejected=batch.policy_chosen,
        reference_chosen=batch.reference_rejected,
        reference_rejected=batch.reference_chosen,
    )


def means(batch: PreferenceBatch) -> PreferenceBatch:
    chosen, rejected = batch.chosen_tokens, batch.rejected_tokens
    assert batch.reference_chosen is not None and batch.reference_rejected is not None
    return attrs.evolve(
        batch,
        policy_chosen=batch.policy_chosen / chosen,
        policy_rejected=batch.policy_rejected / rejected,
        reference_chosen=batch.reference_chosen / chosen,
        reference_rejected=batch.reference_rejected / rejected,
    )


@pytest.mark.parametrize("mistake", [swapped, means])
@pytest.mark.parametrize("name", APO)
def test_chosen_and_rejected_swapped_or_means_for_sums_show(
    name: str, mistake: Any, losses: dict[str, Loss], trained: Any, base: Path, tmp_path: Path
) -> None:
    """The first loss cannot tell, being that of no change; the second step's and the weights do."""

    def wrong(batch: PreferenceBatch, options: Any) -> PreferenceLoss:
        return losses[name].loss(mistake(batch), options)

    use = Use(attrs.evolve(losses[name], loss=wrong), losses[name].options())
    other = run(preference_options(use, max_steps=2, held_out={}), tmp_path, base)
    _, history, weights = trained(name)
    assert other.steps[0]["loss"] == history[0]["loss"] == 1.0
    assert abs(other.steps[1]["loss"] - history[1]["loss"]) > 1e-4
    assert not equal(other.weights(), weights)
