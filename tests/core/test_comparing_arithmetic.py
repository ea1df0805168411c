"""What ``smolrecipe diff`` counts for itself: the curve of a schedule, and the parameters of a model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from attrs import frozen

import smolrecipe as sr
from smolrecipe.comparing.arithmetic import Curve, facts_of, parameters_of
from smolrecipe.comparing.sides import SideStage
from smolrecipe.components import NoOptions


@frozen(kw_only=True)
class RateOptions:
    lr: float = sr.option(doc="peak rate")


@frozen(kw_only=True)
class TrainOptions:
    steps: int = sr.option(doc="steps")
    global_batch: int = sr.option(doc="rows")
    optimizer: sr.Use[sr.Optimizer] = sr.option(doc="optimizer")
    schedule: sr.Use[sr.Schedule] = sr.option(doc="schedule")


def curve(schedule: Callable[[int, int], float], steps: int) -> Curve | None:
    """What ``facts_of`` finds of a schedule."""
    kind = sr.StageKind(name="train", summary="", options=TrainOptions, run=lambda o, c: None, produces=lambda o: {})
    plain = sr.Schedule(name="any", summary="", factor=lambda options, step, steps: schedule(step, steps))
    rate = sr.Optimizer(name="sgd", summary="", options=RateOptions, factory=lambda o: None, groups=lambda o: ())
    options = TrainOptions(
        steps=steps,
        global_batch=1,
        optimizer=sr.Use(rate, RateOptions(lr=1.0)),
        schedule=sr.Use(plain, NoOptions()),
    )
    plain_options = {"use": "train", "steps": steps, "global_batch": 1}
    stage = SideStage(name="s", options=plain_options, digest="", parents={}, plugins={}, use=sr.Use(kind, options))
    return facts_of(stage, recorded=False).curve


@pytest.mark.parametrize("steps", [7, 300, 4321, 4_720_000])
@pytest.mark.parametrize(("warmup", "decay"), [(0.0, 1.0), (0.03, 0.03), (0.0004, 0.89), (0.1, 0.1), (0.5, 1.0)])
def test_a_curve_is_found_from_the_schedule_alone(steps: int, warmup: float, decay: float) -> None:
    """Against the trapezoid's own corners; a rate within a millionth of the peak counts as the peak."""
    rise, fall = max(1, round(warmup * steps)), max(1, round(decay * steps))

    def trapezoid(step: int, steps: int) -> float:
        if step < rise:
            return step / rise
        return 1.0 if step <= fall else 1.0 - 0.9 * (step - fall) / (steps - fall)

    found = curve(trapezoid, steps)
    assert found is not None and found.rises is not None and found.falls is not None
    assert found.rises * steps == pytest.approx(rise if rise > 1 else 0)
    assert found.falls * steps == pytest.approx(max(rise, fall), abs=2e-6 * steps)
    assert found.end == pytest.approx(1.0 if max(rise, fall) == steps else 0.1)


def test_a_curve_with_several_peaks_and_one_that_fails_have_a_name_only() -> None:
    assert str(curve(lambda step, steps: abs((step % 50) - 25) / 25, 1000)) == "any"
    assert str(curve(lambda step, steps: 1 / 0, 1000)) == "any"
    assert str(curve(lambda step, steps: 0.3, 1000)) == "any: stays"


def test_parameters_are_counted_for_known_families_only() -> None:
    config = {
        "model_type": "llama", "hidden_size": 8, "num_hidden_layers": 2, "intermediate_size": 16, "vocab_size": 32,
        "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False,
    }  # fmt: skip
    layer = 8 * 8 + 8 * 4 + 8 * 4 + 8 * 8 + 3 * 8 * 16 + 2 * 8
    assert parameters_of(config) == 32 * 8 + 2 * layer + 8 + 32 * 8
    assert parameters_of({**config, "tie_word_embeddings": True}) == 32 * 8 + 2 * layer + 8
    assert parameters_of({**config, "model_type": "mixtral"}) is None
    assert parameters_of({**config, "attention_bias": True}) is None
