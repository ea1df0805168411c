"""The generator ``openai`` against a server that does as it is told: what is sent, what is made of what comes back."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from openai_server import Reply, Scripted, requests, said, scripted

from smolrecipe import StageContext
from smolrecipe.generation import Answer, Request
from smolrecipe_openai import OpenAiOptions, check, smolrecipe_generators

(OPENAI,) = smolrecipe_generators()


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)


def opened(server: Scripted, tmp_path: Path, **options: Any) -> Any:
    chosen = OpenAiOptions(**{"url": server.url, "model": "toy", **options})
    assert not list(check(chosen))
    return OPENAI.open(chosen, StageContext(recipe="test", stage="make", folder=tmp_path))


def answers(server: Scripted, tmp_path: Path, asked: list[Request], **options: Any) -> list[Answer]:
    with opened(server, tmp_path, **options) as answer:
        return sorted(answer(asked), key=lambda found: found.number)


def one(reply: Reply, tmp_path: Path, **options: Any) -> Answer:
    with scripted(lambda seed, times: reply) as server:
        (found,) = answers(server, tmp_path, requests(1), **options)
        return found


def test_importing_the_plugin_imports_no_client() -> None:
    code = "import smolrecipe_openai, sys; print([m for m in ('openai', 'httpx', 'pydantic') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_what_the_recipe_says_is_sent(tmp_path: Path) -> None:
    with scripted(lambda seed, times: said("yes")) as server:
        (found,) = answers(
            server,
            tmp_path,
            [
                Request(
                    number=7,
                    messages=({"role": "system", "content": "be kind"}, {"role": "user", "content": "hm?"}),
                    arguments={"enable_thinking": False},
                    seed=2**31 - 1,
                )
            ],
            temperature=0.6,
            top_p=0.95,
            top_k=20,
            max_new_tokens=77,
            stop=["###"],
        )
    assert found == Answer(number=7, text="yes", end="stop", prompt_tokens=5, tokens=3)
    assert server.bodies == [
        {
            "model": "toy",
            "messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hm?"}],
            "temperature": 0.6,
            "top_p": 0.95,
            "top_k": 20,
            "max_tokens": 77,
            "stop": ["###"],
            "seed": 2**31 - 1,
            "chat_template_kwargs": {"enable_thinking": False},
        }
    ]
    assert server.keys == ["Bearer none"]


def test_what_is_not_asked_for_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-1234567\n")
    with scripted(lambda seed, times: said("yes")) as server:
        answers(server, tmp_path, requests(1), api_key_variable="MY_KEY", length_field="max_completion_tokens")
    (body,) = server.bodies
    assert set(body) == {"model", "messages", "temperature", "top_p", "max_completion_tokens", "seed"}
    assert server.keys == ["Bearer sk-1234567"]


@pytest.mark.parametrize(
    ("reply", "text", "end"),
    [
        (said("yes"), "yes", "stop"),
        (said(""), "", "stop"),
        (said("ye", "length"), "ye", "length"),
        (said("4", reasoning_content="2 and 2\n"), "<think>\n2 and 2\n</think>\n\n4", "stop"),
        (said("\n\n4", reasoning="2 and 2"), "<think>\n2 and 2\n</think>\n\n4", "stop"),
        (said(None, "length", reasoning="2 and"), "<think>\n2 and", "length"),
        (said(None, reasoning="2 and 2"), "<think>\n2 and 2\n</think>\n\n", "stop"),
        (said("<think>\nhm\n</think>\n\n4"), "<think>\nhm\n</think>\n\n4", "stop"),
        (said("hm\n</think>\n\n4"), "<think>\nhm\n</think>\n\n4", "stop"),
        (said("yes ### no"), "yes ", "stop"),
        (Reply(body=said("yes").body | {"more": "\ud800"}), "yes", "stop"),
        (said("half \ud83d"), "half ?", "stop"),
        (said("yes", "content_filter"), "the server's content filter withheld the answer", "refused"),
        (said(None, refusal="I cannot"), "the server refused: I cannot", "refused"),
    ],
)
def test_replies_become_answers(reply: Reply, text: str, end: str, tmp_path: Path) -> None:
    found = one(reply, tmp_path, stop=["###"])
    assert (found.text, found.end, found.prompt_tokens, found.tokens) == (text, end, 5, 3)


def test_a_server_that_counts_no_tokens_is_taken_as_it_is(tmp_path: Path) -> None:
    reply = said("yes")
    for usage in (None, {}, {"prompt_tokens": "5", "completion_tokens": -3}):
        reply.body["usage"] = usage
        assert one(reply, tmp_path) == Answer(number=0, text="yes")


def test_each_is_asked_once_as_many_at_once_as_allowed(tmp_path: Path) -> None:
    def reply(seed: int, times: int) -> Reply:
        made = said(str(seed))
        made.after = 0.05
        return made

    with scripted(reply) as server:
        found = answers(server, tmp_path, requests(40), at_once=6)
    assert [(answer.number, answer.text) for answer in found] == [(n, str(n)) for n in range(40)]
    assert sorted(server.asked()) == list(range(40))
    assert 3 <= server.most_at_once <= 6


def test_answers_come_as_soon_as_they_are_known(tmp_path: Path) -> None:
    first = threading.Event()

    def reply(seed: int, times: int) -> Reply:
        if seed == 0:
            assert first.wait(20)
        return said(str(seed))

    with scripted(reply) as server, opened(server, tmp_path, at_once=2) as answer:
        coming = answer(requests(5))
        assert [next(coming).number for _ in range(4)] == [1, 2, 3, 4]
        first.set()
        assert [found.number for found in coming] == [0]


def test_requests_are_taken_as_there_is_room_and_leaving_early_waits_for_nobody(tmp_path: Path) -> None:
    taken: list[int] = []

    def endless() -> Iterator[Request]:
        for number in count():
            taken.append(number)
            yield Request(number=number, messages=({"role": "user", "content": "a"},), seed=number)

    def reply(seed: int, times: int) -> Reply:
        made = said("yes")
        made.after = 0.0 if seed == 0 else 60.0
        return made

    with scripted(reply) as server:
        began = time.monotonic()
        with opened(server, tmp_path, at_once=4) as answer:
            coming = answer(endless())
            assert next(coming).number == 0
            assert len(taken) <= 5
            coming.close()
        assert time.monotonic() - began < 10
    assert not [thread for thread in threading.enumerate() if thread.name == "smolrecipe-openai"]


def test_hours_and_costs_follow_from_what_is_stated() -> None:
    plain = OpenAiOptions(url="http://localhost:1/v1", model="toy")
    assert OPENAI.hours(plain, 1000) is OPENAI.cost(plain, 1000) is None
    stated = OpenAiOptions(url="http://localhost:1/v1", model="toy", tokens_per_second=500, price_per_million=0.4)
    assert OPENAI.hours(stated, 3_600_000) == 2
    assert OPENAI.cost(stated, 5_000_000) == 2
    assert OPENAI.model(stated) == "toy"
    assert OPENAI.model(OpenAiOptions(url="http://a/v1", model="toy", revision="2f4c")) == "toy@2f4c"
    assert OPENAI.device(stated) == "cpu"


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"url": "localhost:8000"}, "'url' is no address of an endpoint"),
        ({"url": "http://[::1"}, "'url' is no address of an endpoint"),
        ({"url": "http://"}, "'url' is no address of an endpoint"),
        ({"url": "https://me:sk-123@host/v1"}, "a recipe is no place for a key"),
        ({"url": "https://host/v1?key=sk-123"}, "a recipe is no place for a key"),
        ({"model": " "}, "'model' is empty"),
        ({"api_key_variable": "sk-123"}, "'api_key_variable' is no name of an environment variable"),
        ({"stop": ["a", ""]}, "'stop' has an empty text in it"),
    ],
)
def test_options_that_cannot_be_are_told(options: dict[str, Any], wrong: str) -> None:
    (problem,) = check(OpenAiOptions(**{"url": "http://localhost:8000/v1", "model": "toy", **options}))
    assert wrong in problem
    assert "sk-123" not in problem
