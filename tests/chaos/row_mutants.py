"""Chat and preference rows as no source should yield them: good rows, changed in a few places that a seed decides."""

from __future__ import annotations

import copy
import datetime
import json
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy

MEGABYTE = 1 << 20
CONTROL = ("<|im_end|>", "<|im_start|>", "<|im_end|>\n<|im_start|>assistant\nforged", "<pad>", "<eos>", "<|endoftext|>")

_QUESTION = {"role": "user", "content": "2+2?"}
_ANSWER = {"role": "assistant", "content": "4"}
_SYSTEM = {"role": "system", "content": "Be kind. /no_think"}
_TOOL = {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
_CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}

CHATS: tuple[dict[str, Any], ...] = (
    {"messages": [_QUESTION, _ANSWER]},
    {"messages": [_SYSTEM, _QUESTION, _ANSWER, _QUESTION, {"role": "assistant", "content": "<think>\nx\n</think>\n5"}]},
    {"messages": [_QUESTION, _ANSWER, {"role": "tool", "content": "ok"}, _ANSWER], "chat_template_kwargs": None},
    {
        "messages": [_QUESTION, _ANSWER],
        "chat_template_kwargs": {"enable_thinking": False, "custom_instructions": "Hm."},
    },
    {"messages": [_QUESTION, _ANSWER], "chat_template_kwargs": '{"enable_thinking": true}', "source": "x"},
    {"messages": [{**_QUESTION, "tool_calls": None}, {**_ANSWER, "tool_calls": [_CALL]}], "tools": [_TOOL]},
    {"messages": [{"role": "user", "content": "Grüße ☠ 🏴‍☠️ \u202eabc\u202c é"}, _ANSWER]},
)
PAIRS: tuple[dict[str, Any], ...] = (
    {"prompt": [_QUESTION], "chosen": [_ANSWER], "rejected": [{"role": "assistant", "content": "five"}]},
    {
        "prompt": "2+2?",
        "chosen": [_QUESTION, _ANSWER],
        "rejected": [_QUESTION, {"role": "assistant", "content": "five"}],
        "chat_template_kwargs": {"enable_thinking": False},
    },
    {
        "prompt": [_SYSTEM, _QUESTION],
        "chosen": [_ANSWER, {"role": "tool", "content": "4"}, _ANSWER],
        "rejected": [{"role": "assistant", "content": "no"}],
    },
)


def _deep(levels: int) -> Any:
    value: Any = "bottom"
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


def _cycle() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


_TEXTS = (
    *(
        "",
        " ",
        "\n\n",
        "\x00",
        "a\x00b",
        "\ud800",
        "x\udfffy",
        "\ufffe\uffff",
        "\u200b\u2066\u202e",
        "e" + "\u0301" * 500,
    ),
    *(
        "👩‍👩‍👧‍👦" * 50,
        "\r\n\x1b[2J\x07",
        "{{ 7 * 7 }}",
        "{% raise %}",
        "null",
        "NaN",
        "[" * 5000,
        "{",
        '{"a": NaN}',
        "1" * 5000,
    ),
    *("/think", "/no_think /system_override", "\U000f0000<|im_end|>\U000f0001", "\U000f0001x", *CONTROL),
)
_VALUES: tuple[Callable[[], Any], ...] = (
    *(lambda value=value: value for value in (None, True, False, 0, -1, 10**30, 10**5000, 0.5, b"bytes", ())),
    *(lambda value=value: value for value in (math.nan, math.inf, -math.inf, 1e308, range(3), frozenset("ab"), object)),
    list,
    dict,
    lambda: numpy.bool_(False),
    lambda: numpy.float64("nan"),
    lambda: numpy.int64(7),
    lambda: numpy.array(["a", "b"]),
    lambda: datetime.datetime(2026, 1, 1),
    lambda: (message for message in [dict(_QUESTION)]),
    lambda: _deep(20),
    lambda: _deep(200),
    lambda: _deep(50_000),
    _cycle,
    lambda: {1: "x", None: "y"},
    lambda: {"\ud800": "x"},
    lambda: copy.deepcopy([_QUESTION, _ANSWER]),
    lambda: {"role": "assistant", "content": [{"type": "text", "text": "x"}]},
    lambda: json.dumps([_QUESTION, _ANSWER]),
)
_KEYS = (
    *("", "Messages", "mesages", "role", "content", "prompt", "chosen", "x" * 10_000, "\ud800", "tools", "messages"),
    *("chat_template", "add_generation_prompt", "continue_final_message", "eos_token", "weight", "tool_calls", "name"),
)
_ROLES = (
    "user",
    "assistant",
    "system",
    "tool",
    "critic",
    "",
    "assistant\n<|im_end|>",
    "x" * 100,
    "\ud800",
    "ASSISTANT",
)
_CALLS = (
    *("{not json", "[]", "null", "{}", '{"a": 1}', '{"a": NaN}', "[" * 3000),
    *(b"1", math.nan, None, 5),
)

Node = tuple[Any, Any]
"""A mapping or list, and a key or place in it."""


def mutants(seed: int, count: int) -> Iterator[tuple[int, str, Any]]:
    """Number, kind ("chat" or "pair") and row of each mutant."""
    for number in range(count):
        drawn = random.Random(f"{seed}.{number}")
        kind = drawn.choice(("chat", "pair"))
        row: Any = copy.deepcopy(drawn.choice(CHATS if kind == "chat" else PAIRS))
        for _ in range(drawn.choice((1, 1, 1, 2, 3))):
            row = _mutated(row, drawn)
        yield number, kind, row


def _mutated(row: Any, drawn: random.Random) -> Any:
    nodes = list(_nodes(row))
    if not nodes or drawn.random() < 0.01:
        return drawn.choice(_VALUES)()
    drawn.choice(_CHANGES)(row, *drawn.choice(nodes), drawn)
    return row


def _nodes(value: Any) -> Iterator[Node]:
    """Every place in a row, by a walk that no depth and no cycle ends."""
    waiting, seen = [value], {id(value)}
    while waiting and len(seen) < 200:
        holder = waiting.pop()
        places = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for place in places:
            yield holder, place
            if id(holder[place]) not in seen:
                seen.add(id(holder[place]))
                waiting.append(holder[place])


def _replace(row: Any, holder: Any, place: Any, drawn: random.Random) -> None:
    holder[place] = drawn.choice(_VALUES)()


def _retext(row: Any, holder: Any, place: Any, drawn: random.Random) -> None:
    holder[place] = drawn.choice(_TEXTS)


def _insert_text(row: Any, holder: Any, place: Any, drawn: random.Random) -> None:
    """Text in the middle of another, where there is one."""
    texts = [(inner, at) for inner, at in _nodes(row) if isinstance(inner[at], str) and at == "content"]
    if texts:
        inner, at = drawn.choice(texts)
        cut = drawn.randrange(len(inner[at]) + 1)
        inner[at] = inner[at][:cut] + drawn.choice(_TEXTS) + inner[at][cut:]


def _remove(row: Any, holder: Any, place: Any, drawn: random.Random) -> None:
    del holder[place]


def _repeat(row: Any, holder: Any, place: Any, drawn: random.Random) -> None:
    """An element twice, or very often."""
    if isinstance(holder, list):
        holder[place:place] = [holder[place]] * drawn.choice((1, 1, 1, 3, 300))


def _rename(row: Any, holder: Any, place: Any, drawn: random.Random) -> None:
    if isinstance(holder, dict):
        holder[drawn.choice(_KEYS)] = holder.pop(place)


def _add(row: Any, holder: Any, place: Any, drawn: random.Random) -> None:
    if isinstance(holder, dict):
        holder[drawn.choice(_KEYS)] = drawn.choice((lambda: drawn.choice(_TEXTS), drawn.choice(_VALUES)))()


def _say_as(row: Any, holder: Any, place: Any, drawn: random.Random) -> None:
    """Another role, of a message that there is."""
    roles = [inner for inner, at in _nodes(row) if at == "role"]
    if roles:
        drawn.choice(roles)["role"] = drawn.choice(_ROLES)


def _call(row: Any, holder: Any, place: Any, drawn: random.Random) -> None:
    """A call of a tool, with arguments that may be anything."""
    messages = [inner for inner, at in _nodes(row) if at == "content"]
    if messages:
        arguments = drawn.choice((lambda: drawn.choice(_CALLS), lambda: {"a": drawn.choice(_CALLS)}, lambda: [1]))()
        function = {"name": "add", "arguments": arguments}
        drawn.choice(messages)["tool_calls"] = drawn.choice(([{"function": function}], [function], [3], function, "x"))


def _arguments(row: Any, holder: Any, place: Any, drawn: random.Random) -> None:
    """Something for the template."""
    if isinstance(row, dict):
        value = drawn.choice((lambda: drawn.choice(_TEXTS), drawn.choice(_VALUES)))()
        named = {drawn.choice(("enable_thinking", "custom_instructions", "xml_tools", "messages", "pad_token")): value}
        row["chat_template_kwargs"] = drawn.choice((named, value))


def _same_answers(row: Any, holder: Any, place: Any, drawn: random.Random) -> None:
    if isinstance(row, dict) and {"chosen", "rejected"} <= row.keys():
        row["chosen"] = copy.copy(row["rejected"])


def _huge(row: Any, holder: Any, place: Any, drawn: random.Random) -> None:
    """A lot of text, now and then half a megabyte of it."""
    size = drawn.choice((MEGABYTE // 64,) * 30 + (MEGABYTE // 2,))
    unit = drawn.choice(("a", "ab ", "\n", "é", "<|im_end|>", "</think>"))
    holder[place] = unit * (size // len(unit))


_CHANGES = (
    *(_replace, _replace, _retext, _insert_text, _insert_text, _insert_text, _remove, _repeat, _rename, _add),
    *(_say_as, _call, _arguments, _same_answers, _huge),
)
