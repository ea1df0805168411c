"""The generator ``vllm``, as far as it goes without a GPU and without vLLM: no test here runs the engine."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest
from attrs import frozen
from plans import kind, plan_of

from smolrecipe import Generator, StageRef, Use, option
from smolrecipe.running.machine import lacking
from smolrecipe_vllm import VllmOptions, check, smolrecipe_generators
from smolrecipe_vllm.answering import VISIBLE, _one_gpu

(VLLM,) = smolrecipe_generators()


@frozen(kw_only=True)
class TeacherOptions:
    teacher: Use[Generator] = option(doc="the model that answers")


def chosen(**options: Any) -> VllmOptions:
    return VllmOptions(**{"model": StageRef("sft"), **options})


def test_importing_the_plugin_imports_no_engine() -> None:
    code = (
        "import smolrecipe_vllm.answering, sys; "
        "print([m for m in ('vllm', 'torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_hours_and_costs_follow_from_what_is_stated() -> None:
    assert VLLM.hours(chosen(), 1000) is VLLM.cost(chosen(), 1000) is None
    assert VLLM.hours(chosen(tokens_per_second=500), 3_600_000) == 2
    assert VLLM.cost(chosen(tokens_per_second=500), 1000) is None
    assert VLLM.cost(chosen(tokens_per_second=500, price_per_hour=1.5), 3_600_000) == 3
    assert VLLM.device(chosen()) == "cuda"
    assert VLLM.model(chosen()) == "sft"
    assert VLLM.model(chosen(model=StageRef.parse("apo@0.5"))) == "apo@0.5"


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"max_new_tokens": 2048, "max_length": 2048}, "'max_new_tokens' is 2048, and 'max_length' 2048, which has to"),
        ({"stop": [""]}, "'stop' has an empty text in it"),
        ({"price_per_hour": 2.0}, "'price_per_hour' tells no costs without 'tokens_per_second'"),
    ],
)
def test_options_that_cannot_be_are_told(options: dict[str, Any], wrong: str) -> None:
    assert not list(check(chosen()))
    (problem,) = check(chosen(**options))
    assert wrong in problem


@pytest.mark.parametrize(
    ("before", "place", "seen"), [(None, 0, "0"), (None, 3, "3"), ("4,6", 1, "6"), ("GPU-a,GPU-b", 0, "GPU-a")]
)
def test_each_process_sees_its_own_gpu(
    before: str | None, place: int, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if before is None:
        monkeypatch.delenv(VISIBLE, raising=False)
    else:
        monkeypatch.setenv(VISIBLE, before)
    with _one_gpu(place):
        assert os.environ[VISIBLE] == seen
    assert os.environ.get(VISIBLE) == before


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
def test_a_recipe_that_uses_it_where_it_is_missing_is_told_how_to_get_it() -> None:
    plan = plan_of({"make": (kind("make"), TeacherOptions(teacher=Use(VLLM, chosen())))})
    (problem,) = lacking(plan, plan.stages)
    assert problem.message == "generator 'vllm' needs vllm, which is not installed: pip install 'smolrecipe[vllm]'"
