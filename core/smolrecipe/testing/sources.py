"""What a data source must hold: rows of the shape that it says, always the same, and nobody else's.

Rows are read with the network out of reach. A source that asks for it and says in a ``StageError`` that its data cannot
be had cannot be read here, and the checks of its rows are skipped; so they are where ``missing`` says that a file is
not on this machine, and where the example names a stage, whose rows are read in a run only. A source that fails for any
other reason is broken.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

from smolrecipe.components import Source
from smolrecipe.errors import StageError
from smolrecipe.options import StageRef, walk
from smolrecipe.testing.attempts import (
    after,
    make,
    not_json,
    only_where,
    options_kept,
    reporting,
    scramble,
    without_network,
)
from smolrecipe.testing.contract import Check, broken

ROWS = 64
"""How many rows of a source are looked at, from the first on."""

SHAPES = ("text", "chat", "preference", "problem")
SAYS, SHAPED, WRITTEN, AGAIN = (
    "it says what shape its rows have",
    "its rows have that shape",
    "its rows are JSON",
    "it yields the same rows again",
)


def checks(component: Source, options: Any) -> Iterator[Check]:
    """The checks of a source with the options of its example."""
    for name, check in (
        (SAYS, _check_says),
        ("its fingerprint is the same text every time", _check_fingerprint),
        (SHAPED, _check_shape),
        (WRITTEN, _check_json),
        (AGAIN, _check_again),
        ("it yields rows one by one", _check_lazy),
        ("a row belongs to whoever has read it", _check_fresh),
    ):
        yield Check(name=name, run=partial(make, check, component, options))


def _called(component: Source) -> str:
    return f"source '{component.name}'"


def _check_says(component: Source, options: Any) -> None:
    what = f"yields of {_called(component)}"
    shape = options_kept(what, options, lambda: component.yields(options))
    if shape not in SHAPES:
        broken(f"{what} returns {shape!r}: name one of the shapes {', '.join(SHAPES)} (see smolrecipe.data)")


def _check_fingerprint(component: Source, options: Any) -> None:
    what = f"fingerprint of {_called(component)}"
    first, second = (options_kept(what, options, lambda: component.fingerprint(options)) for _ in range(2))
    if not isinstance(first, str):
        broken(f"{what} returns {type(first).__name__}: return text, which goes into the stage's digest")
    if first != second:
        broken(
            f"{what} is {first!r} and then {second!r}: it identifies the data behind the options, and a stage whose "
            "digest changes is run again every time"
        )


@contextmanager
def _reading(component: Source, options: Any) -> Iterator[Callable[[], Iterator[Any]]]:
    """A function that starts reading from the first row on; without a network, and with any seed of ``random``."""
    stages = [str(value) for _, value, _ in walk(options) if isinstance(value, StageRef) and value.root is None]
    only_where(not stages, f"{_called(component)} reads what stage '{''.join(stages[:1])}' published, in a run only")
    missing = "; ".join(component.missing(options))
    only_where(not missing, f"what the example of {_called(component)} points at is not on this machine: {missing}")
    state, refused = random.getstate(), ""
    with without_network() as tried:
        try:
            with reporting(f"read of {_called(component)}"):
                yield lambda: iter(component.read(options))
        except AssertionError as error:
            if not (tried and isinstance(error.__cause__, StageError)):
                raise
            refused = f"{error.__cause__}"
        finally:
            random.setstate(state)
    only_where(not refused, f"{_called(component)} cannot be read without a network: {refused}")


def _rows(reader: Iterable[Any]) -> list[Any]:
    return list(islice(reader, ROWS))


def _check_shape(component: Source, options: Any) -> None:
    after(SAYS, _check_says, component, options)
    shape = component.yields(options)
    with _reading(component, options) as read:
        rows = _rows(options_kept(f"read of {_called(component)}", options, read))
        if not rows:
            broken(f"{_called(component)} yields no row with the options of its example: give options that have some")
        for number, row in enumerate(rows):
            if not isinstance(row, Mapping):
                broken(f"row {number} of {_called(component)} is {type(row).__name__}: a row is a mapping, like a dict")
            if problem := next(_SHAPES[shape](row), ""):
                broken(f"row {number} of {_called(component)} is no {shape} row: {problem} (see smolrecipe.data)")


def _text(row: Mapping[str, Any]) -> Iterator[str]:
    yield from _is_text(row, "text")


def _chat(row: Mapping[str, Any]) -> Iterator[str]:
    yield from _messages(row, "messages")
    if not isinstance(row.get("chat_template_kwargs", {}), Mapping):
        yield f"'chat_template_kwargs' is {row['chat_template_kwargs']!r}, where a mapping belongs, or nothing"


def _preference(row: Mapping[str, Any]) -> Iterator[str]:
    yield from _messages(row, "prompt")
    yield from _messages(row, "chosen")
    yield from _messages(row, "rejected")
    if not isinstance(row.get("chat_template_kwargs", {}), Mapping):
        yield f"'chat_template_kwargs' is {row['chat_template_kwargs']!r}, where a mapping belongs, or nothing"


def _problem(row: Mapping[str, Any]) -> Iterator[str]:
    yield from _chat(row)
    yield from _is_text(row, "answer")


def _is_text(row: Mapping[str, Any], key: str) -> Iterator[str]:
    if not isinstance(row.get(key), str):
        yield f"'{key}' is {row[key]!r}, where text belongs" if key in row else f"'{key}' is missing"


def _messages(row: Mapping[str, Any], key: str) -> Iterator[str]:
    messages = row.get(key)
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        yield f"'{key}' is {messages!r}, where a list of messages belongs" if key in row else f"'{key}' is missing"
        return
    for message in messages:
        if not isinstance(message, Mapping):
            yield f"'{key}' has the message {message!r}, which is no mapping"
        else:
            for problem in (*_is_text(message, "role"), *_is_text(message, "content")):
                yield f"in a message of '{key}', {problem}"


_SHAPES: Mapping[str, Callable[[Mapping[str, Any]], Iterator[str]]] = {
    "text": _text,
    "chat": _chat,
    "preference": _preference,
    "problem": _problem,
}


def _check_json(component: Source, options: Any) -> None:
    after(SHAPED, _check_shape, component, options)
    with _reading(component, options) as read:
        for number, row in enumerate(_rows(read())):
            if reason := not_json(row):
                broken(f"row {number} of {_called(component)} cannot be written as JSON: {reason}")


def _check_again(component: Source, options: Any) -> None:
    """Twice from the start, and by two readers in turn: a row depends on the options and its number alone."""
    after(WRITTEN, _check_json, component, options)
    with _reading(component, options) as read:
        random.seed(1)
        first = [copy.deepcopy(row) for row in _rows(read())]
        random.seed(2)
        _compare(component, first, _rows(read()), "read a second time")
        one, two = read(), read()
        taken = [(next(one, None), next(two, None)) for _ in range(len(first))]
        _compare(component, first, [row for row, _ in taken], "read by two readers in turn")
        _compare(component, first, [row for _, row in taken], "read by two readers in turn")


def _compare(component: Source, first: list[Any], second: list[Any], how: str) -> None:
    if first == second:
        return
    if len(first) != len(second):
        broken(f"{_called(component)}, {how}, yields {len(second)} rows where it first yielded {len(first)}")
    number = next(number for number, pair in enumerate(zip(first, second, strict=True)) if pair[0] != pair[1])
    broken(
        f"{_called(component)}, {how}, yields another row {number}: {first[number]!r} and then {second[number]!r}. "
        "Draw from a generator of your own, seeded by an option, and start at the first row in every call of 'read'"
    )


def _check_lazy(component: Source, options: Any) -> None:
    """``read`` returns at once and reads on as rows are asked for: what a list could not do for a large data set."""
    after(SHAPED, _check_shape, component, options)
    with _reading(component, options):
        rows = component.read(options)
        if isinstance(rows, (Mapping, Sequence)):
            broken(
                f"read of {_called(component)} returns all rows at once, in a {type(rows).__name__}: yield them one by "
                "one, so that data may be larger than memory"
            )


def _check_fresh(component: Source, options: Any) -> None:
    after(AGAIN, _check_again, component, options)
    with _reading(component, options) as read:
        rows = _rows(read())
        kept = copy.deepcopy(rows)
        scramble(rows)
        _compare_fresh(component, kept, _rows(read()))


def _compare_fresh(component: Source, kept: list[Any], again: list[Any]) -> None:
    number = next((number for number, pair in enumerate(zip(kept, again, strict=False)) if pair[0] != pair[1]), None)
    if number is not None or len(kept) != len(again):
        broken(
            f"{_called(component)} yields a changed row {number or 0} after a reader has changed the one it had: make "
            "a new row, with new lists, each time"
        )
