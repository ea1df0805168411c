"""Preference optimisation with TRL: any loss in place of its own, what is measured and what is kept."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
from trl_alone import trained_by_trl
from trl_toys import (
    APO,
    PUBLISHED,
    STORED,
    WEIGHTS,
    Beta,
    Run,
    equal,
    falling,
    preference_options,
    run,
    simpo,
)

from smolrecipe import Loss, NoOptions, PreferenceBatch, PreferenceLoss, Schedule, StageError, Use

pytest_plugins = ["trl_fixtures"]
pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_plugged_in_loss_is_bitwise_trls_own(base: Path, tmp_path: Path) -> None:
    """TRL renders, tokenises and computes APO-zero by itself here, on the same rows in the same order and kernel."""
    options = preference_options(APO, attention="sdpa")
    ours = run(options, tmp_path, base)
    history, weights = trained_by_trl("apo_zero", options, base, tmp_path)
    assert [event["loss"] for event in ours.steps] == [entry["loss"] for entry in history]
    assert [event["reward_margin"] for event in ours.steps] == pytest.approx(
        [entry["rewards/margins"] for entry in history], abs=1e-6
    )
    assert equal(ours.weights(), weights)


def test_rewards_are_measured_before_and_after(aligned: Run) -> None:
    margin, accuracy = aligned.measure("reward margin"), aligned.measure("reward accuracy")
    assert margin.before == 0.0 and accuracy.before == 0.5  # the policy is its own reference
    assert margin.after > 0.1 and accuracy.after > 0.8 and margin.samples == 10
    assert aligned.measure("held-out preference loss").before == 1.0
    assert aligned.steps[0]["loss"] == 1.0 and aligned.steps[-1]["reward_accuracy"] == 1.0


def test_a_fraction_of_the_run_is_kept(aligned: Run, base: Path, tmp_path: Path) -> None:
    """The checkpoint after half of ten steps is where the same schedule, ended after five, gets."""
    half = Use(
        Schedule(name="half", summary="", factor=lambda options, step, steps: falling(None, step, 10)), NoOptions()
    )
    ended = run(preference_options(APO, schedule=half, max_steps=5, held_out={}), tmp_path, base)
    kept = "checkpoints/0.5/" + WEIGHTS
    assert equal(aligned.weights(kept), ended.weights()) and not equal(aligned.weights(kept), aligned.weights())
    assert aligned.artifact.summary["kept"] == {"0.5": 5}
    assert (aligned.folder / "checkpoints/0.5/model/chat_template.jinja").exists()
    assert {path.name for path in aligned.folder.iterdir()} - STORED == PUBLISHED | {"checkpoints"}


def living_models() -> int:
    gc.collect()
    return sum(type(item).__name__ == "SmolLM3ForCausalLM" for item in gc.get_objects())


def test_a_loss_without_reference_loads_none(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts the models that are alive in the middle of training."""
    from trl import DPOTrainer

    before, alive = living_models(), []

    def count(batch: PreferenceBatch, options: Beta) -> PreferenceLoss:
        if not alive and batch.policy_chosen.requires_grad:
            alive.append(living_models())
        return simpo(batch, options)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a reference was computed")

    monkeypatch.setattr(DPOTrainer, "compute_ref_log_probs", refuse)
    counting = Use(Loss(name="simpo", summary="", loss=count, needs_reference=False), Beta(2.0))
    free = run(preference_options(counting, max_steps=4), tmp_path, base)
    assert alive == [before + 1]
    assert free.artifact.summary["reference_model"] is False
    assert free.measure("reward margin").after > free.measure("reward margin").before


@pytest.mark.parametrize(
    ("loss", "complaint"),
    [
        (lambda batch, options: PreferenceLoss(losses=batch.policy_chosen.mean()), r"returned losses of shape \(\)"),
        (lambda batch, options: PreferenceLoss(losses=batch.policy_chosen.detach()), "does not depend on the policy"),
    ],
)
def test_a_loss_that_is_none_is_refused(loss: Any, complaint: str, base: Path, tmp_path: Path) -> None:
    use = Use(Loss(name="odd", summary="", loss=loss, needs_reference=False), NoOptions())
    with pytest.raises(StageError, match=f"loss 'odd' {complaint}"):
        run(preference_options(use, max_steps=1, held_out={}), tmp_path, base)
