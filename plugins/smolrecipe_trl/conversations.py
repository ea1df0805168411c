"""Taking rows apart: the messages and template arguments of chat and preference rows, or why there are none."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import frozen

from smolrecipe import StageError

_SHOWN = 5
_ENOUGH = 20

Message = Mapping[str, Any]


class UnusableRowError(ValueError):
    """A row that cannot be rendered without losing something. The message continues a sentence that names the row."""


@frozen(kw_only=True)
class Conversation:
    """Messages and what the template is called with besides them."""

    messages: tuple[Message, ...]
    arguments: Mapping[str, Any]


@frozen(kw_only=True)
class Pair:
    """A preference pair: the messages of the prompt and of two answers to it."""

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    arguments: Mapping[str, Any]


def conversation(row: Any) -> Conversation:
    """The conversation of a chat row ``{"messages": [...], "chat_template_kwargs": {...}}``.

    Raises:
        UnusableRowError: for a row without messages, or with messages that are not a role and a text.
    """
    fields = _fields(row)
    if fields.get("messages") is None:
        raise UnusableRowError(f"has no 'messages' (it has {', '.join(fields) or 'nothing'})")
    return Conversation(messages=_messages(fields["messages"], "messages"), arguments=_arguments(fields))


def pair(row: Any) -> Pair:
    """The pair of a preference row ``{"prompt": [...], "chosen": [...], "rejected": [...]}``.

    Where ``prompt`` is missing or is the text of a message, as in published preference sets, ``chosen`` and
    ``rejected`` are whole conversations and the messages that they start with in common are the prompt.

    Raises:
        UnusableRowError: for a row without two answers to one prompt.
    """
    fields = _fields(row)
    for key in ("chosen", "rejected"):
        if fields.get(key) is None:
            raise UnusableRowError(f"has no '{key}' (it has {', '.join(fields) or 'nothing'})")
    chosen, rejected = (_messages(fields[key], key) for key in ("chosen", "rejected"))
    written = fields.get("prompt")
    if written is None or isinstance(written, str):
        prompt = _common_start(chosen, rejected)
        if written is not None and all(message["content"].strip() != written.strip() for message in prompt):
            raise UnusableRowError("has a text as 'prompt' that is no message which 'chosen' and 'rejected' share")
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    else:
        prompt = _messages(written, "prompt")
    for key, answer in (("chosen", chosen), ("rejected", rejected)):
        if not answer or answer[0]["role"] != "assistant":
            found = f"starts with a message of '{answer[0]['role']}'" if answer else "adds nothing to the prompt"
            raise UnusableRowError(f"has no answer of the assistant to score: '{key}' {found}")
    if not prompt:
        raise UnusableRowError("has no prompt")
    return Pair(prompt=prompt, chosen=chosen, rejected=rejected, arguments=_arguments(fields))


def _fields(row: Any) -> Mapping[str, Any]:
    if not isinstance(row, Mapping):
        raise UnusableRowError(f"is {'null' if row is None else type(row).__name__}, not a mapping")
    return row


def _messages(value: Any, key: str) -> tuple[Message, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise UnusableRowError(f"has {type(value).__name__} as '{key}', not a list of messages")
    messages = tuple(value)
    if not messages:
        raise UnusableRowError(f"has no message in '{key}'")
    for number, message in enumerate(messages):
        where = f"{key}[{number}]"
        if not isinstance(message, Mapping):
            raise UnusableRowError(f"has {type(message).__name__} as {where}, not a message")
        if not isinstance(message.get("role"), str):
            raise UnusableRowError(f"has no role in {where}")
        content = message.get("content")
        if content is None:
            raise UnusableRowError(f"has no content in {where} (role '{message['role']}')")
        if not isinstance(content, str):
            raise UnusableRowError(
                f"has {type(content).__name__} content in {where} (role '{message['role']}'): join its parts into text"
            )
    # Arrow gives every message of a column the keys of all: what is None was not written.
    return tuple({name: item for name, item in message.items() if item is not None} for message in messages)


def _arguments(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """The template's arguments without those that are ``None``.

    Arrow fills the keys that a row lacks with ``None``, and to a template ``enable_thinking=None`` is false: rows would
    change their mode. They may also be given as JSON text, which Arrow leaves alone.
    """
    arguments = _decoded(fields.get("chat_template_kwargs"), "chat_template_kwargs")
    if arguments is not None and not isinstance(arguments, Mapping):
        raise UnusableRowError(f"has {type(arguments).__name__} as 'chat_template_kwargs', not a mapping")
    tools = _decoded(fields.get("tools"), "tools")
    merged = {**({"tools": tools} if tools else {}), **(arguments or {})}
    return {name: value for name, value in merged.items() if value is not None}


def _decoded(value: Any, key: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value else None
    except ValueError:
        raise UnusableRowError(f"has '{key}' that is not JSON: {value[:60]!r}") from None


def _common_start(one: Sequence[Message], other: Sequence[Message]) -> tuple[Message, ...]:
    count = 0
    while count < min(len(one), len(other)) and one[count] == other[count]:
        count += 1
    return tuple(one[:count])


class Refusals:
    """Collects what is wrong with rows, so that their author reads it at once and not one row at a time."""

    def __init__(self) -> None:
        self._messages: list[str] = []

    def add(self, source: str, number: int, reason: UnusableRowError) -> None:
        """Note that row ``number`` (from 0) of ``source`` cannot be used; end when enough are known.

        Raises:
            StageError: at the twentieth.
        """
        self._messages.append(f"row {number} of source '{source}' {reason}")
        if len(self._messages) >= _ENOUGH:
            self.raise_if_any(more=True)

    def raise_if_any(self, *, more: bool = False) -> None:
        """Raise a ``StageError`` with the first refusals, if there are any."""
        if not self._messages:
            return
        total = len(self._messages)
        lines = "\n".join(f"  {message}" for message in self._messages[:_SHOWN])
        rest = f"\n  and {'at least ' if more else ''}{total - _SHOWN} more" if total > _SHOWN else ""
        raise StageError(
            f"{'at least ' if more else ''}{total} row(s) cannot be rendered without losing something; mend or filter "
            f"them (rows are counted from 0):\n{lines}{rest}"
        )
