"""What a pretraining stage says it amounts to, and of trajectories that do not add up."""

from __future__ import annotations

import pytest
from plans import messages, plan_of
from titan_toys import make_options

import smolrecipe_torchtitan
from smolrecipe import StageRef, Workload

(PRETRAIN,) = smolrecipe_torchtitan.smolrecipe_stages()
BASE = {"sequence_length": 32, "global_batch": 8, "trajectory_steps": None}


def test_tokens_steps_and_model() -> None:
    found = PRETRAIN.workload(make_options(**BASE, steps=12), {})
    assert (found.steps, found.last_step, found.schedule_steps, found.tokens_per_step) == (12, 12, 12, 256)
    assert (found.row_length, found.precision, found.at_most, found.more_work) == (32, "float32", False, 0)
    assert found.model["hidden_size"] == 32 and found.model["num_hidden_layers"] == 2
    full = PRETRAIN.workload(make_options(**BASE, steps=12, activation_checkpointing="full"), {})
    assert full.more_work == pytest.approx(1 / 3)


def test_steps_count_on_where_everything_is_carried() -> None:
    before = {"a": Workload(steps=12, last_step=30)}
    everything = make_options(**BASE, steps=5, from_=StageRef("a"), carry="everything")
    assert PRETRAIN.workload(everything, before).last_step == 35
    weights = make_options(**BASE, steps=5, from_=StageRef("a"))
    assert PRETRAIN.workload(weights, before).last_step == 5
    unknown = PRETRAIN.workload(everything, {"a": Workload()})
    assert unknown.last_step is None and unknown.steps == 5


def trajectory(second: int, asked: int | None = 20, carry: str = "everything") -> list[str]:
    first = make_options(**{**BASE, "trajectory_steps": 20}, steps=12)
    later = make_options(**{**BASE, "trajectory_steps": asked}, steps=second, from_=StageRef("a"), carry=carry)
    plan = plan_of({"a": (PRETRAIN, first), "b": (PRETRAIN, later)})
    return messages(smolrecipe_torchtitan.smolrecipe_warn_of_plan, plan)


def test_a_trajectory_that_its_stages_make() -> None:
    assert trajectory(8) == []


@pytest.mark.parametrize(
    ("second", "made", "end"), [(7, 19, "stays short of its end"), (9, 21, "is at its end before")]
)
def test_a_trajectory_that_its_stages_do_not_make(second: int, made: int, end: str) -> None:
    assert trajectory(second) == [
        f"stage 'b': trajectory_steps is 20, and the stages up to this one make {made} steps: the learning rate {end}"
    ]


def test_only_the_last_stage_of_each_trajectory_is_told() -> None:
    """A stage that carries weights alone begins anew, so the one before it is the last of its own."""
    assert [message.split("'")[1] for message in trajectory(20, carry="weights")] == ["a"]
