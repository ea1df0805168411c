"""From a record of a data set to a row of the shape that stages expect."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from smolrecipe import StageError
from smolrecipe_data.json_values import not_json
from smolrecipe_data.wording import named, printable

FIELDS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "text": (("text",), ()),
    "chat": (("messages",), ("chat_template_kwargs",)),
    "preference": (("chosen", "rejected"), ("prompt", "chat_template_kwargs")),
    "problem": (("messages", "answer"), ("chat_template_kwargs",)),
}
"""The fields of each shape: those a record must have, and those it may have."""

LONGEST_ROW = 2**25
"""Bytes of a row of a file, and of a document: 32 MiB. Tokenisers hold some hundred bytes for each of them."""

Message = Mapping[str, Any]


def column_problems(yields: str, columns: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each entry of ``columns`` that names no field of the shape ``yields``."""
    required, optional = FIELDS[yields]
    for field in columns:
        if field not in (*required, *optional):
            yield f"'columns' names the field '{field}'; {yields} rows have {', '.join((*required, *optional))}"


def columns_of(names: Collection[str], yields: str, columns: Mapping[str, str], where: str) -> dict[str, str]:
    """The column of each field of the shape ``yields`` in data that has the columns ``names``.

    Raises:
        StageError: for a column that is not there; ``where`` names the data.
    """
    required, optional = FIELDS[yields]
    found = {}
    for field in (*required, *optional):
        column = columns.get(field, field)
        if column in names:
            found[field] = column
        elif field in required or field in columns:
            raise StageError(
                f"{where} has no column '{printable(column)}' for the field '{field}' of {yields} rows; its columns "
                f"are {named(names)}: say which one it is under 'columns'"
            )
    return found


def shape_rows(
    records: Iterable[tuple[int, Mapping[str, Any]]],
    yields: str,
    columns: Mapping[str, str],
    limit: int | None,
    place: Callable[[int], str],
) -> Iterator[dict[str, Any]]:
    """The first ``limit`` of numbered records as rows of the shape ``yields``; ``place`` names one by its number.

    Arrow fills what a record lacks with nulls; they are dropped from messages and ``chat_template_kwargs``, where they
    would mean something else (``enable_thinking: null`` turns thinking off).

    Half a surrogate pair, which JSON can write and no encoding has, is refused in what is rendered as a chat; in text
    rows it is left to the stages, which mend and count it.

    Raises:
        StageError: for a column that is not there or does not hold what its field needs.
    """
    for number, record in islice(records, limit):
        where = place(number)
        row = {field: record[column] for field, column in columns_of(record, yields, columns, where).items()}
        try:
            yield _SHAPERS[yields](row)
        except _WrongFieldError as error:
            raise StageError(f"{where}: {error}") from None


def row_texts(row: Mapping[str, Any]) -> Iterator[str]:
    """All text of a row of any shape, message by message."""
    if "text" in row:
        yield row["text"]
    for field in ("messages", "prompt", "chosen", "rejected"):
        yield from (message["content"] for message in row.get(field) or ())
    if "answer" in row:
        yield row["answer"]


def valid_unicode(text: str) -> str:
    """The text, with a question mark for each half of a surrogate pair, which no encoding has."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="replace").decode()
    return text


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
    answer = row["answer"]
    if not isinstance(answer, str):
        raise _WrongFieldError(f"'answer' must be text, not {type(answer).__name__}")
    _require_json(answer, "answer")
    return {**_chat(row), "answer": answer}


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
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)) or not value:
        raise _WrongFieldError(f"'{field}' must be a list of messages")
    for message in value:
        if not isinstance(message, Mapping):
            raise _WrongFieldError(f"a message of '{field}' is {type(message).__name__}, not a role and a content")
    messages = [{key: item for key, item in message.items() if item is not None} for message in value]
    for message in messages:
        if not isinstance(message.get("role"), str) or not isinstance(message.get("content"), str):
            raise _WrongFieldError(f"a message of '{field}' lacks a 'role' or a 'content' that is text")
    _require_json(messages, field)
    return messages


def _template_kwargs(row: dict[str, Any]) -> dict[str, Any]:
    given = row.get("chat_template_kwargs")
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise _WrongFieldError(f"'chat_template_kwargs' must be a mapping, not {type(given).__name__}")
    kwargs = {key: item for key, item in given.items() if item is not None}
    _require_json(kwargs, "chat_template_kwargs")
    return {"chat_template_kwargs": kwargs} if kwargs else {}


def _require_json(value: Any, field: str) -> None:
    if problem := not_json(value):
        raise _WrongFieldError(f"'{field}' holds {problem}")


_SHAPERS = {"text": _text, "chat": _chat, "preference": _preference, "problem": _problem}
