"""What a server sends back, read with suspicion: it may be anybody's."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Literal

from smolrecipe import Answer

STOPPED = ("stop", "eos", "eos_token", "stop_sequence")
"""How servers say that the model ended its turn."""

WITHHELD = "the server's content filter withheld the answer"


class MalformedReplyError(ValueError):
    """A reply that is no chat completion: what is wrong with it, as the end of a sentence."""


def read_reply(body: bytes, number: int, stop: Iterable[str]) -> Answer:
    """The answer to request ``number`` in a reply with status 200.

    Raises:
        MalformedReplyError: when there is none.
    """
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError):
        raise MalformedReplyError(f"is no JSON ({_short(body.decode('utf-8', 'replace'))})") from None
    if not isinstance(reply, Mapping):
        raise MalformedReplyError(f"is {_short(reply)}, and no chat completion")
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise MalformedReplyError(f"has no 'choices' ({_short(reply)})")
    message, finish = choices[0].get("message"), choices[0].get("finish_reason")
    if not isinstance(message, Mapping):
        raise MalformedReplyError(f"has no 'message' in its choice ({_short(choices[0])})")
    usage = reply.get("usage")
    prompt_tokens, tokens = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    answer = partial(Answer, number=number, prompt_tokens=prompt_tokens, tokens=tokens)
    if finish == "content_filter":
        return answer(text=WITHHELD, end="refused")
    if isinstance(message.get("refusal"), str) and message["refusal"] and not message.get("content"):
        return answer(text=f"the server refused: {_short(message['refusal'])}", end="refused")
    end: Literal["stop", "length"]
    if finish == "length":
        end = "length"
    elif finish in STOPPED:
        end = "stop"
    else:
        raise MalformedReplyError(
            f"says that the answer ended by {_short(finish)}, which is neither 'stop' nor 'length'"
        )
    return answer(text=_text(message, end, list(stop)), end=end)


def _text(message: Mapping[str, Any], end: str, stop: list[str]) -> str:
    """The turn with its reasoning in front, which servers that know of it separate."""
    content = message.get("content")
    reasoning = next((message[key] for key in ("reasoning_content", "reasoning") if message.get(key)), None)
    for name, value in (("content", content), ("reasoning", reasoning)):
        if value is not None and not isinstance(value, str):
            raise MalformedReplyError(f"has {_short(value)} for the message's {name}, where text belongs")
    if content is None and reasoning is None:
        raise MalformedReplyError(f"has a message without content ({_short(message)})")
    # JSON can escape halves of characters, which no file holds.
    content, reasoning = (half and half.encode("utf-8", "replace").decode("utf-8") for half in (content, reasoning))
    said = _before(content or "", stop)
    if reasoning is not None:
        thought = f"<think>\n{reasoning.strip(chr(10))}"
        # Reasoning that was cut off has no end, in servers that do not separate it either.
        return thought if end == "length" and not said.strip() else f"{thought}\n</think>\n\n{said.lstrip(chr(10))}"
    head, closed, _ = said.partition("</think>")
    if closed and "<think>" not in head:
        # The template has opened it, at the end of the prompt.
        return "<think>\n" + said.lstrip("\n")
    return said


def _before(text: str, stop: list[str]) -> str:
    """The text before the first of those that end it, which some servers leave in."""
    return text[: min((place for ending in stop if (place := text.find(ending)) >= 0), default=len(text))]


def _count(usage: Any, key: str) -> int:
    """A number of tokens; 0 where the server does not count them."""
    value = usage.get(key) if isinstance(usage, Mapping) else None
    return value if type(value) is int and value >= 0 else 0


def _short(value: Any) -> str:
    text = " ".join((value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).split())
    return text if len(text) <= 120 else text[:117] + "..."
