"""What fine-tuning and alignment say they amount to."""

from __future__ import annotations

import attrs
import pytest
from plans import kind, messages, plan_of
from trl_rows import chat, preference_options, rows_of, sft_options

import smolrecipe_trl
from smolrecipe import Loss, NoOptions, Use, Workload

SFT, PREFERENCE = smolrecipe_trl.smolrecipe_stages()
MODEL = {"model_type": "smollm3", "max_position_embeddings": 64}
BEFORE = {"base": Workload(model=MODEL)}


def test_sft_is_bounded_by_its_rows() -> None:
    found = SFT.workload(sft_options(max_steps=7, global_batch=4, max_length=50), BEFORE)
    assert (found.steps, found.tokens_per_step, found.at_most, found.row_length) == (7, 200, True, 50)
    assert found.model == MODEL and found.more_work == 0
    assert not SFT.workload(sft_options(packing="wrapped"), BEFORE).at_most
    assert SFT.workload(sft_options(activation_checkpointing=True), BEFORE).more_work == pytest.approx(1 / 3)


def test_the_steps_of_epochs_are_the_datas_to_say() -> None:
    found = SFT.workload(sft_options(max_steps=None, epochs=2.0), BEFORE)
    assert found.steps is None and found.tokens_per_step == 64


def test_pairs_have_two_rows_and_a_reference_sees_them_once_more() -> None:
    loss = Loss(name="l", summary="", loss=lambda batch, options: None)
    options = preference_options(max_steps=3, global_batch=4, max_length=50, loss=Use(loss, NoOptions()))
    found = PREFERENCE.workload(options, BEFORE)
    assert (found.tokens_per_step, found.at_most) == (400, True)
    assert found.more_work == pytest.approx(1 / 3)
    alone = Use(attrs.evolve(loss, needs_reference=False), NoOptions())
    again = attrs.evolve(options, loss=alone, activation_checkpointing=True)
    assert PREFERENCE.workload(again, BEFORE).more_work == pytest.approx(1 / 3)
    assert PREFERENCE.workload(attrs.evolve(again, loss=options.loss), BEFORE).more_work == pytest.approx(2 / 3)


def test_what_is_learned_and_what_is_measured_on() -> None:
    rows = rows_of(chat("1", "2"))
    found = SFT.workload(sft_options(data={"a": rows}, held_out={"b": rows}), BEFORE)
    assert (dict(found.trains_on), dict(found.measures_on)) == ({"data.a": rows}, {"held_out.b": rows})


def test_rows_beyond_the_model_are_asked_about() -> None:
    def asked(length: int) -> list[str]:
        stages = {"base": (kind("base", BEFORE["base"]), NoOptions()), "sft": (SFT, sft_options(max_length=length))}
        return messages(smolrecipe_trl.smolrecipe_warn_of_plan, plan_of(stages))

    assert asked(64) == []
    assert asked(65) == [
        "stage 'sft': rows of up to 65 tokens, and the model of 'base' was made for 64 positions: longer rows ask for "
        "what it has not seen"
    ]
