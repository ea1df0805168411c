"""What evaluation measures on, and training on what lm-eval's tasks test with."""

from __future__ import annotations

import pytest
from attrs import frozen
from plans import kind, messages, plan_of

import smolrecipe_lm_eval
from smolrecipe import NoOptions, Source, StageRef, Use, Workload, option
from smolrecipe_lm_eval import EvaluateOptions
from smolrecipe_lm_eval.options import GenerationOptions, RulerOptions

(EVALUATE,) = smolrecipe_lm_eval.smolrecipe_stages()


@frozen(kw_only=True)
class SetOptions:
    id: str = option(doc="data set")
    split: str = option(default="train", doc="split")


SET = Source(name="set", summary="", options=SetOptions, read=lambda options: (), yields=lambda options: "chat")


def asked(identity: str, split: str, *tasks: str) -> list[str]:
    """A base model that has learned a data set, and an evaluation of it."""
    learned = Workload(trains_on={"data.x": Use(SET, SetOptions(id=identity, split=split))})
    evaluated = EvaluateOptions(models=[StageRef("base")], tasks=[*tasks])
    plan = plan_of({"base": (kind("base", learned), NoOptions()), "evaluate": (EVALUATE, evaluated)})
    return messages(smolrecipe_lm_eval.smolrecipe_warn_of_plan, plan)


def test_a_test_split_that_is_trained_on() -> None:
    assert asked("openai/gsm8k", "test", "piqa", "gsm8k") == [
        "stage 'evaluate' measures with 'gsm8k', and 'data.x' of stage 'base' trains on its split 'test': what it "
        "measures is then memory"
    ]
    assert len(asked("cais/mmlu", "validation[:9]", "mmlu_anatomy")) == 1


@pytest.mark.parametrize(
    ("identity", "split", "task"),
    [("openai/gsm8k", "train", "gsm8k"), ("openai/gsm8k", "test", "gsm8k2"), ("someone/other", "test", "gsm8k")],
)
def test_what_may_be_trained_on(identity: str, split: str, task: str) -> None:
    assert asked(identity, split, task) == []


def test_only_what_the_evaluated_models_have_learned() -> None:
    learned = Workload(trains_on={"data.x": Use(SET, SetOptions(id="openai/gsm8k", split="test"))})
    stages = {
        "base": (kind("base"), NoOptions()),
        "other": (kind("other", learned), NoOptions()),
        "evaluate": (EVALUATE, EvaluateOptions(models=[StageRef("base")], tasks=["gsm8k"])),
    }
    assert messages(smolrecipe_lm_eval.smolrecipe_warn_of_plan, plan_of(stages)) == []


def test_problems_and_texts_are_what_is_measured_on() -> None:
    use = Use(SET, SetOptions(id="x"))
    found = EVALUATE.workload(EvaluateOptions(models=[], problems={"sums": use}, texts={"web": use}), {})
    assert dict(found.measures_on) == {"problems.sums": use, "texts.web": use} and not found.trains_on


def test_contexts_and_answers_that_a_model_has_no_positions_for() -> None:
    short, long = (
        kind(name, Workload(model={"max_position_embeddings": size})) for name, size in (("s", 64), ("l", 99))
    )
    stages = {"short": (short, NoOptions()), "long": (long, NoOptions()), "other": (kind("other"), NoOptions())}
    asked = EvaluateOptions(
        models=[StageRef("short"), StageRef("long"), StageRef("other")],
        ruler=RulerOptions(lengths=[64, 80]),
        tasks=["gsm8k"],
        generation=GenerationOptions(max_new_tokens=99),
    )
    plan = plan_of({**stages, "evaluate": (EVALUATE, asked)})
    answers = "stage 'evaluate': 'generation.max_new_tokens' asks with a prompt for sequences of 100 tokens"
    assert [problem.message for problem in smolrecipe_lm_eval.smolrecipe_check_plan(plan)] == [
        "stage 'evaluate': 'ruler.lengths' has contexts of 80 tokens, and the model of 'short' takes 64",
        f"{answers}, and the model of 'short' takes 64",
        f"{answers}, and the model of 'long' takes 99",
    ]
