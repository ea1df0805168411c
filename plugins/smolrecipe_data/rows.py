"""From a record of a data set to a row of the shape that stages expect."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from smolrecipe import StageError

FIELDS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "text": (("text",), ()),
    "chat": (("messages",), ("chat_template_kwargs",)),
    "preference": (("chosen", "rejected"), ("prompt", "chat_template_kwargs")),
    "problem": (("messages", "answer"), ("chat_template_kwargs",)),
}
"""The fields of each shape: those a record must have, and those it may have."""

Message = Mapping[str, Any]


def column_problems(yields: str, columns: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each entry of ``columns`` that names no field of the shape ``yields``."""
    required, optional = FIELDS[yields]
    for field in columns:
        if field not in (*required, *optional):
            yield f"'columns' names the field '{field}'; {yields} rows have {', '.join((*required, *optional))}"


def shape_rows(
    records: Iterable[Mapping[str, Any]], yields: str, columns: Mapping[str, str], limit: int | None, where: str
) -> Iterator[dict[str, Any]]:
    """The first ``limit`` records as rows of the shape ``yields``; ``where`` names the data in messages.

    Arrow fills what a record lacks with nulls; they are dropped from messages and ``chat_template_kwargs``, where they
    would mean something else (``enable_thinking: null`` turns thinking off).

    Raises:
        StageError: for a column that is not there or does not hold what its field needs.
    """
    required, optional = FIELDS[yields]
    for number, record in enumerate(records):
        if number == limit:
            return
        row = {}
        for field in (*required, *optional):
            column = columns.get(field, field)
            if column in record:
                row[field] = record[column]
            elif field in required or field in columns:
                raise StageError(
                    f"{where} has no column '{column}' for the field '{field}' of {yields} rows; its columns are "
                    f"{', '.join(sorted(record)) or 'none'}: say which one it is under 'columns'"
                )
        try:
            yield _SHAPERS[yields](row)
        except _WrongFieldError as error:
            raise StageError(f"{where}, row {number}: {error}") from None


def row_texts(row: Mapping[str, Any]) -> Iterator[str]:
    """All text of a row of any shape, message by message."""
    if "text" in row:
        yield row["text"]
    for field in ("messages", "prompt", "chosen", "rejected"):
        yield from (message["content"] for message in row.get(field) or ())
    if "answer" in row:
        yield row["answer"]


class _WrongFieldError(ValueError):
    """A field that does not hold what its shape needs, as a sentence."""


def _text(row: dict[str, Any]) -> dict[str, Any]:
    text = row["text"]
    if text is not None and not isinstance(text, str):
        raise _WrongFieldError(f"'text' must be text, not {type(text).__name__}")
    return {"text": text or ""}


def _chat(row: dict[str, Any]) -> dict[str, Any]:
    return {"messages": _messages(row["messages"], "messages"), **_template_kwargs(row)}


def _problem(row: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(row["answer"], str):
        raise _WrongFieldError(f"'answer' must be text, not {type(row['answer']).__name__}")
    return {**_chat(row), "answer": row["answer"]}


def _preference(row: dict[str, Any]) -> dict[str, Any]:
    """Prompt, chosen and rejected as lists of messages.

    Data sets write pairs in two ways: three separate fields, or ``chosen`` and ``rejected`` as whole conversations that
    start alike, beside which a plain-text ``prompt`` only repeats the question.
    """
    prompt, chosen, rejected = row.get("prompt"), row["chosen"], row["rejected"]
    if isinstance(chosen, str) and isinstance(rejected, str):
        chosen, rejected = ([{"role": "assistant", "content": answer}] for answer in (chosen, rejected))
        prompt = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    chosen, rejected = _messages(chosen, "chosen"), _messages(rejected, "rejected")
    if prompt is None or isinstance(prompt, str):
        shared = 0
        while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
            shared += 1
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    if not prompt:
        raise _WrongFieldError("there is no prompt: 'chosen' and 'rejected' do not start with the same message")
    if not chosen or not rejected:
        raise _WrongFieldError("nothing is left of 'chosen' or 'rejected' after the messages that both start with")
    return {"prompt": _messages(prompt, "prompt"), "chosen": chosen, "rejected": rejected, **_template_kwargs(row)}


def _messages(value: Any, field: str) -> list[dict[str, Any]]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise _WrongFieldError(f"'{field}' must be a list of messages")
    messages = [{key: item for key, item in message.items() if item is not None} for message in value]
    for message in messages:
        if not isinstance(message.get("role"), str) or not isinstance(message.get("content"), str):
            raise _WrongFieldError(f"a message of '{field}' lacks a 'role' or a 'content' that is text")
    return messages


def _template_kwargs(row: dict[str, Any]) -> dict[str, Any]:
    kwargs = {key: item for key, item in (row.get("chat_template_kwargs") or {}).items() if item is not None}
    return {"chat_template_kwargs": kwargs} if kwargs else {}


_SHAPERS = {"text": _text, "chat": _chat, "preference": _preference, "problem": _problem}
