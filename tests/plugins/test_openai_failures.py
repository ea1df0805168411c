"""The generator ``openai`` where the server fails: what is asked again, what is given up, and in which words."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai._base_client
import pytest
from openai_server import Reply, Scripted, failed, free_port, requests, said, scripted

from smolrecipe import StageContext, StageError
from smolrecipe.generation import Answer, Request
from smolrecipe_openai import OpenAiOptions, answering, smolrecipe_generators

(OPENAI,) = smolrecipe_generators()
KEPT = "What was answered is kept, and the same command goes on from there"
KEY = "sk-a-secret-of-some-length"


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's waits, a hundredth of them; and a key, which is never to be seen."""
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.005)
    monkeypatch.setattr(openai._base_client, "MAX_RETRY_DELAY", 0.08)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def asked(url: str, tmp_path: Path, coming: Any, **options: Any) -> tuple[list[Answer], str]:
    """What is answered, and then said instead."""
    chosen = OpenAiOptions(**{"url": url, "model": "toy", "retries": 3, **options})
    found: list[Answer] = []
    try:
        with OPENAI.open(chosen, StageContext(recipe="test", stage="make", folder=tmp_path)) as answer:
            found.extend(answer(coming))
    except StageError as error:
        assert KEY not in str(error)
        assert "\n" not in str(error)
        return found, str(error)
    return found, ""


def tried(script: Callable[[int, int], Reply], tmp_path: Path, count: int = 1, **options: Any) -> Any:
    """What is answered, what is said, and the server."""
    with scripted(script) as server:
        return *asked(server.url, tmp_path, requests(count), **options), server


@pytest.mark.parametrize(
    "trouble",
    [
        failed(429, "slow down", Retry_After="0.01"),
        failed(500, "oops"),
        failed(503, "loading"),
        Reply(status=502, body=b"<html>bad gateway</html>", headers={"Content-Type": "text/html"}),
        Reply(hang_up=True),
    ],
)
def test_trouble_that_passes_is_sat_out(trouble: Reply, tmp_path: Path) -> None:
    def script(seed: int, times: int) -> Reply:
        return trouble if times <= 2 and seed % 2 else said("yes")

    found, wrong, server = tried(script, tmp_path, 6)
    assert not wrong
    assert sorted(answer.number for answer in found) == list(range(6))
    assert {answer.text for answer in found} == {"yes"}
    assert sorted(server.asked()) == [0, 1, 1, 1, 2, 3, 3, 3, 4, 5, 5, 5]


def test_a_server_that_says_how_long_is_left_alone_that_long(tmp_path: Path) -> None:
    began = time.monotonic()
    _, wrong, server = tried(
        lambda seed, times: failed(429, "wait", Retry_After="0.5") if times == 1 else said("yes"), tmp_path
    )
    assert not wrong and server.asked() == [0, 0]
    assert time.monotonic() - began >= 0.5


@pytest.mark.parametrize(
    ("trouble", "says"),
    [
        (failed(500, "oops"), "fails (500: oops), tried 4 times: lower 'at_once' (now 16), raise 'retries' (now 3)"),
        (failed(429, f"quota of {KEY}"), "is too busy to answer (429: quota of ***), tried 4 times"),
        (
            failed(429, "come back", Retry_After="3600"),
            "(429: come back), tried once; it asks to be left alone for 3600 seconds",
        ),
        (Reply(hang_up=True), "cannot be reached ("),
        (Reply(status=503, body=b""), "fails (503: without a word), tried 4 times"),
        (Reply(status=402, body={"detail": "pay first"}), "will not answer (402: pay first)"),
    ],
)
def test_trouble_that_stays_is_told(trouble: Reply, says: str, tmp_path: Path) -> None:
    found, wrong, server = tried(lambda seed, times: trouble, tmp_path)
    assert not found
    assert says in wrong and KEPT in wrong
    assert "toy" in wrong and server.url in wrong
    assert server.asked() == [0] * (1 if "tried once" in says or "402" in says else 4)


def test_what_is_answered_before_comes_before(tmp_path: Path) -> None:
    def script(seed: int, times: int) -> Reply:
        if seed == 2:
            return failed(500, "oops")
        made = said(str(seed))
        made.after = 0.5 if seed > 2 else 0.0
        return made

    found, wrong, server = tried(script, tmp_path, 1000, at_once=5, retries=0)
    assert "fails (500: oops), tried once" in wrong
    numbers = sorted(answer.number for answer in found)
    assert numbers == sorted(set(server.asked()) - {2})  # those in flight were not asked in vain
    assert len(numbers) <= 12
    assert len(server.asked()) == len(set(server.asked()))


def test_those_in_flight_are_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "GRACE_SECONDS", 0.2)

    def script(seed: int, times: int) -> Reply:
        return failed(401, "no") if seed == 0 else Reply(after=60, body={})

    began = time.monotonic()
    found, wrong, _ = tried(script, tmp_path, 5)
    assert not found and "401" in wrong
    assert time.monotonic() - began < 10


def test_whoever_makes_the_requests_may_fail_too(tmp_path: Path) -> None:
    def broken() -> Iterator[Request]:
        yield from requests(3)
        raise StageError("no more prompts: the file is damaged")

    with scripted(lambda seed, times: said("yes")) as server:
        found, wrong = asked(server.url, tmp_path, broken())
    assert sorted(answer.number for answer in found) == [0, 1, 2]
    assert wrong == "no more prompts: the file is damaged"


def test_a_server_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    began = time.monotonic()
    found, wrong = asked(url, tmp_path, requests(1), retries=8)
    assert not found
    assert f"{url} cannot be reached (" in wrong and "tried once: start the server that has 'toy'" in wrong
    assert time.monotonic() - began < 5


def test_a_server_that_goes_away_is_tried_again_and_then_told(tmp_path: Path) -> None:
    def script(seed: int, times: int) -> Reply:
        return said("yes") if seed == 0 else Reply(hang_up=True)

    found, wrong, server = tried(script, tmp_path, 2, at_once=1)
    assert [answer.number for answer in found] == [0]
    assert "cannot be reached" in wrong and "tried 4 times" in wrong
    assert server.asked() == [0, 1, 1, 1, 1]


def test_silence_is_told(tmp_path: Path) -> None:
    _, wrong, server = tried(lambda seed, times: Reply(after=60), tmp_path, timeout_seconds=0.2, retries=1)
    assert "'toy' at" in wrong and "did not answer within 0.2 seconds, tried 2 times: lower 'at_once'" in wrong
    assert server.asked() == [0, 0]


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_is_refused_is_told_by_its_variable(
    status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, wrong, server = tried(lambda seed, times: failed(status, f"Incorrect API key provided: {KEY}."), tmp_path)
    assert not found and server.asked() == [0]
    assert (
        f"refuses the key in the environment variable OPENAI_API_KEY ({status}: Incorrect API key provided: ***)"
        in (wrong)
    )
    monkeypatch.delenv("OPENAI_API_KEY")
    _, wrong, server = tried(lambda seed, times: failed(status, "no"), tmp_path, api_key_variable="MINE")
    assert "refuses requests without a key, and there is none in the environment variable MINE" in wrong
    assert "set MINE to a key" in wrong and server.keys == ["Bearer none"]


def test_a_key_that_no_header_can_carry_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-ключ")
    found, wrong, server = tried(lambda seed, times: said("yes"), tmp_path)
    assert not found and not server.bodies
    assert wrong.startswith("what the environment variable OPENAI_API_KEY has is no key")


@pytest.mark.parametrize(
    ("models", "says"),
    [
        (["big", "small"], "the server has 'big', 'small'; name one of these in 'model'"),
        ([f"m{n}" for n in range(12)], "'m9' and 2 more; name one of these"),
        ([], "name a model that the server has"),
    ],
)
def test_a_model_that_the_server_has_not_is_told_with_those_that_it_has(
    models: list[str], says: str, tmp_path: Path
) -> None:
    with scripted(lambda seed, times: failed(404, "The model `toy` does not exist."), models=models) as server:
        found, wrong = asked(server.url, tmp_path, requests(1))
    assert not found and server.asked() == [0]
    assert "is not there (404: The model `toy` does not exist)" in wrong and says in wrong


def too_long(seed: int, times: int) -> Reply:
    return failed(400, "maximum context length is 4096 tokens")


def test_a_request_that_is_refused_is_refused_alone(tmp_path: Path) -> None:
    def script(seed: int, times: int) -> Reply:
        return too_long(seed, times) if seed % 3 == 0 else said("yes")

    found, wrong, server = tried(script, tmp_path, 30, at_once=1)
    assert not wrong and server.asked() == list(range(30))
    assert [answer.number for answer in found] == list(range(30))
    for answer in found:
        assert answer.end == ("refused" if answer.number % 3 == 0 else "stop")
    assert found[3].text == "the server refused it (400): maximum context length is 4096 tokens"
    assert found[3].tokens == 0


@pytest.mark.parametrize("status", [400, 413, 422])
def test_where_all_are_refused_it_is_nobodys_row(status: int, tmp_path: Path) -> None:
    def script(seed: int, times: int) -> Reply:
        return failed(status, "Unexpected fields in the request: {'top_k'}") if seed < 8 else said("yes")

    found, wrong, server = tried(script, tmp_path, 30, at_once=1, top_k=3)
    assert not found and server.asked() == list(range(8))
    assert "refused the first 8 requests and answered none" in wrong and "{'top_k'}" in wrong and KEPT in wrong

    found, wrong, _ = tried(script, tmp_path, 7, at_once=1)
    assert not wrong and [answer.end for answer in found] == ["refused"] * 7


def test_text_that_no_request_can_carry_is_refused(tmp_path: Path) -> None:
    asked_for = [*requests(2), Request(number=2, messages=({"role": "user", "content": "\ud800"},), seed=2)]
    with scripted(lambda seed, times: said("yes")) as server:
        found, wrong = asked(server.url, tmp_path, asked_for, at_once=1)
    assert not wrong and [answer.end for answer in found] == ["stop", "stop", "refused"]


def without(*keys: str) -> Reply:
    reply = said("yes")
    inner = reply.body
    for key in keys[:-1]:
        inner = inner[key][0] if key == "choices" else inner[key]
    del inner[keys[-1]]
    return reply


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (Reply(body=b"<html>hello</html>"), "is no JSON (<html>hello</html>)"),
        (Reply(body=b"<html>hello</html>", headers={"Content-Type": "text/html"}), "is no JSON (<html>hello</html>)"),
        (Reply(body=b"\xff\xfe{"), "is no JSON"),
        (Reply(body=b"[" * 100_000), "is no JSON"),
        (Reply(body=b""), "is no JSON"),
        (Reply(body=["yes"]), 'is ["yes"], and no chat completion'),
        (Reply(body=None), "is null, and no chat completion"),
        (Reply(body={"choices": []}), "has no 'choices'"),
        (Reply(body={"error": "sorry"}), 'has no \'choices\' ({"error": "sorry"})'),
        (without("choices", "message"), "has no 'message' in its choice"),
        (without("choices", "finish_reason"), "ended by null"),
        (said("yes", "abort"), "ended by abort, which is neither 'stop' nor 'length'"),
        (said("yes", None), "ended by null"),
        (Reply(body={"choices": [{"finish_reason": ["stop"], "message": {"content": "yes"}}]}), 'ended by ["stop"]'),
        (said(None), "has a message without content"),
        (Reply(body={"choices": [{"finish_reason": "stop", "message": {"content": ["yes"]}}]}), "where text belongs"),
        (said("yes", reasoning={"text": "hm"}), "for the message's reasoning, where text belongs"),
    ],
)
def test_a_reply_that_is_none_is_told(reply: Reply, says: str, tmp_path: Path) -> None:
    def script(seed: int, times: int) -> Reply:
        return reply if seed == 1 else said("yes")

    found, wrong, server = tried(script, tmp_path, 3, at_once=1)
    assert [answer.number for answer in found] == [0]
    assert server.asked() == [0, 1]
    assert wrong.startswith(f"a reply of 'toy' at {server.url} ") and says in wrong and KEPT in wrong


def test_servers_that_were_left_leave_no_thread(tmp_path: Path) -> None:
    import threading

    tried(lambda seed, times: failed(500, "oops"), tmp_path)
    assert not [thread for thread in threading.enumerate() if thread.name == "smolrecipe-openai"]


def test_the_stand_in_counts(tmp_path: Path) -> None:
    """What these tests rest on: a client that asks twice is seen."""
    with scripted(lambda seed, times: said(str(times))) as server:
        asked(server.url, tmp_path, requests(2))
        found, _ = asked(server.url, tmp_path, requests(2))
    assert isinstance(server, Scripted)
    assert sorted(server.asked()) == [0, 0, 1, 1] and {answer.text for answer in found} == {"2"}
