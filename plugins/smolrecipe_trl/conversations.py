"""Taking rows apart: the messages and template arguments of chat and preference rows, or why there are none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any

from attrs import frozen

from smolrecipe import StageError
from smolrecipe_trl.row_values import EndlessRowError, UnusableRowError, decoded, kind, names, plain, printable, shown

_SHOWN = 5
_ENOUGH = 20
_LONGEST_ROLE = 64
_MODE = "enable_thinking"
"""What the built-in templates and many others call the switch of their two modes. To them, the text 'false' is true."""

Message = Mapping[str, Any]


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
        raise UnusableRowError(f"has no 'messages' (it has {names(fields)})")
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
            raise UnusableRowError(f"has no '{key}' (it has {names(fields)})")
    chosen, rejected = (_messages(fields[key], key) for key in ("chosen", "rejected"))
    written = fields.get("prompt")
    if written is None or isinstance(written, str):
        # Two equal conversations have a prompt too: they are counted as equal answers to it.
        prompt = _common_start(chosen, rejected) if chosen != rejected else chosen[:-1]
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
        raise UnusableRowError(f"is {kind(row)}, not a mapping")
    return row


def _messages(value: Any, key: str) -> tuple[Message, ...]:
    # Something without a length may have no end.
    if isinstance(value, (str, bytes, Mapping)) or not (isinstance(value, Iterable) and isinstance(value, Sized)):
        raise UnusableRowError(f"has {kind(value)} as '{key}', not a list of messages")
    messages = tuple(_message(message, f"{key}[{number}]") for number, message in enumerate(value))
    if not messages:
        raise UnusableRowError(f"has no message in '{key}'")
    return messages


def _message(message: Any, where: str) -> Message:
    if not isinstance(message, Mapping):
        raise UnusableRowError(f"has {type(message).__name__} as {where}, not a message")
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or not role:
        raise UnusableRowError(f"has no role in {where}")
    if len(role) > _LONGEST_ROLE:
        raise UnusableRowError(f"has a role of {len(role)} characters in {where}: {shown(role)!r}")
    if content is None:
        raise UnusableRowError(f"has no content in {where} (role '{role}')")
    if not isinstance(content, str):
        raise UnusableRowError(f"has {kind(content)} content in {where} (role '{role}'): join its parts into text")
    # Arrow gives every message of a column the keys of all: what is None was not written.
    written: Message = plain({name: item for name, item in message.items() if item is not None}, where)
    _check_calls(written.get("tool_calls"), where)
    return written


def _check_calls(calls: Any, where: str) -> None:
    """Refuse calls of tools whose arguments are a text, as some have them, that does not say what it should."""
    for number, call in enumerate(calls if isinstance(calls, list) else ()):
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise UnusableRowError(f"has {kind(call)} as {where}.tool_calls[{number}], not a call")
        arguments = f"{where}.tool_calls[{number}].arguments"
        if not isinstance(decoded(function.get("arguments", {}), arguments), dict):
            raise UnusableRowError(f"has '{arguments}' that is not a mapping")


def _arguments(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """The template's arguments without those that are ``None``.

    Arrow fills the keys that a row lacks with ``None``, and to a template ``enable_thinking=None`` is false: rows would
    change their mode. They may also be given as JSON text, which Arrow leaves alone.
    """
    key = "chat_template_kwargs"
    arguments = decoded(fields.get(key), key)
    if arguments is not None and not isinstance(arguments, Mapping):
        raise UnusableRowError(f"has {kind(arguments)} as '{key}', not a mapping")
    tools = decoded(fields.get("tools"), "tools")
    if tools is not None and not isinstance(tools, (list, tuple)):
        raise UnusableRowError(f"has {kind(tools)} as 'tools', not a list")
    merged = {**(plain({"tools": tools}, "the row") if tools else {}), **plain(arguments or {}, key)}
    thinking = merged.get(_MODE)
    if thinking is not None and not isinstance(thinking, bool):
        raise UnusableRowError(f"has {kind(thinking)} as '{_MODE}' in '{key}', not true or false")
    return {name: value for name, value in merged.items() if value is not None}


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
            StageError: at the twentieth, and at one that never came to an end.
        """
        self._messages.append(printable(f"row {number} of source '{source}' {reason}"))
        if len(self._messages) >= _ENOUGH or isinstance(reason, EndlessRowError):
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
