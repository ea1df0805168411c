"""The generator ``openai`` against a real server, ``transformers serve``, whose model is small and at hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import SkipTest

import pytest
from openai_server import requests, save_model, transformers_serve

from smolrecipe import StageContext, StageError
from smolrecipe.generation import Answer
from smolrecipe.testing import generators
from smolrecipe_openai import OpenAiOptions, smolrecipe_generators

pytest.importorskip("torch", reason="the server that is asked computes with it")
pytest.importorskip("fastapi", reason="the server that is asked is made of it")

(OPENAI,) = smolrecipe_generators()
TOKENS = 24


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "toy"
    save_model(folder, do_sample=True)
    return folder


@pytest.fixture(scope="module")
def url(model: Path) -> Iterator[str]:
    with transformers_serve(model) as address:
        yield address


def answers(url: str, model: Path, folder: Path, count: int = 8, **options: Any) -> list[Answer]:
    arguments = options.pop("arguments", {})
    chosen = OpenAiOptions(**{"url": url, "model": str(model), "max_new_tokens": TOKENS, "retries": 1, **options})
    with OPENAI.open(chosen, StageContext(recipe="test", stage="make", folder=folder)) as answer:
        return sorted(answer(requests(count, **arguments)), key=lambda found: found.number)


def generated(folder: Path, count: int = 8, **arguments: Any) -> list[Answer]:
    """What transformers itself makes of the same conversations, one by one."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    found = []
    for request in requests(count):
        text = tokenizer.apply_chat_template(
            list(request.messages), tokenize=False, add_generation_prompt=True, **arguments
        )
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            row = model.generate(ids, do_sample=False, max_new_tokens=TOKENS, pad_token_id=0)[0, ids.shape[1] :]
        found.append(
            Answer(
                number=request.number,
                text=tokenizer.decode(row, skip_special_tokens=True),
                end="length" if len(row) == TOKENS else "stop",
                prompt_tokens=ids.shape[1],
                tokens=len(row),
            )
        )
    return found


@pytest.mark.parametrize("arguments", [{}, {"enable_thinking": True}])
def test_greedy_answers_are_those_of_transformers(
    url: str, model: Path, tmp_path: Path, arguments: dict[str, Any]
) -> None:
    found = answers(url, model, tmp_path, arguments=arguments)
    assert found == generated(model, **arguments)
    assert len({answer.text for answer in found}) > 4


def test_the_chat_templates_arguments_reach_the_model(url: str, model: Path, tmp_path: Path) -> None:
    plain, thinking = (
        answers(url, model, tmp_path, arguments=arguments) for arguments in ({}, {"enable_thinking": True})
    )
    difference = len("thinking ")  # a token is a character
    assert [b.prompt_tokens - a.prompt_tokens for a, b in zip(plain, thinking, strict=True)] == [difference] * 8


def test_seeds_are_kept_one_at_a_time(url: str, model: Path, tmp_path: Path) -> None:
    first, second = (answers(url, model, tmp_path, temperature=1.0, at_once=1) for _ in range(2))
    assert first == second != answers(url, model, tmp_path)
    assert len({answer.text for answer in first}) == 8


def test_texts_that_end_an_answer_are_left_out(url: str, model: Path, tmp_path: Path) -> None:
    whole = answers(url, model, tmp_path)
    ending = whole[0].text[3:5]
    for answer, cut in zip(whole, answers(url, model, tmp_path, stop=[ending]), strict=True):
        assert cut.text == answer.text.partition(ending)[0]
        assert cut.end == ("stop" if ending in answer.text else answer.end)


def test_what_the_server_does_not_know_is_told_in_its_words(url: str, model: Path, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"refused the first 8 requests .* Unexpected fields in the request: .'top_k'"):
        answers(url, model, tmp_path, top_k=3)
    with pytest.raises(StageError, match="Server is pinned to"):
        answers(url, Path("another"), tmp_path)


def test_a_served_model_holds_the_contract(url: str, model: Path) -> None:
    options = OpenAiOptions(url=url, model=str(model), max_new_tokens=TOKENS, at_once=1)
    skipped = []
    for check in generators.checks(OPENAI, options):
        try:
            check.run()
        except SkipTest:
            skipped.append(check.name)
    assert skipped == ["what is drawn follows the seed"]  # of which the kit is sure with its own model alone
