"""Trying what a plugin offers: its mistakes as sentences, its data as JSON, its network out of reach."""

from __future__ import annotations

import copy
import json
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import SkipTest

from smolrecipe.testing.contract import ContractError, broken

_HELD: dict[tuple[Any, ...], tuple[Any, ...]] = {}
"""Checks that have held, by what they were made of; it is kept, so that nothing else gets its identity."""


def only_where(holds: bool, reason: str) -> None:
    """Go on where ``holds``; otherwise a check cannot be made here, which is no failure and is reported as skipped.

    Raises:
        SkipTest: with the reason. pytest and unittest both show it.
    """
    if not holds:
        raise SkipTest(reason)


def after(name: str, check: Callable[..., object], *args: Any) -> None:
    """Run the check that another one builds on, unless it has held of the same things before.

    Raises:
        SkipTest: where it fails, because its own test says why.
    """
    if (check, *map(id, args)) not in _HELD:
        with building_on(name):
            make(check, *args)


def make(check: Callable[..., object], *args: Any) -> None:
    """Make a check, and remember where it holds, for those that build on it."""
    check(*args)
    _HELD[check, *map(id, args)] = args


@contextmanager
def building_on(name: str) -> Iterator[None]:
    """Skip the check that is being made where the one inside, of that name, fails: its own test says why."""
    try:
        yield
    except ContractError:
        raise SkipTest(f"see '{name}', which comes before it") from None


@contextmanager
def reporting(what: str) -> Iterator[None]:
    """Report anything that is raised inside as a broken contract: ``what`` and then what was raised."""
    try:
        yield
    except (ContractError, SkipTest):
        raise
    except Exception as error:
        said = " ".join(str(error).split()) or "without a message"
        raise ContractError(f"{what} raises {type(error).__name__}: {said}") from error


def sentences(what: str, answer: Any) -> list[str]:
    """The sentences that a check of a plugin yields; ``what`` names it."""
    if isinstance(answer, str) or not isinstance(answer, Iterable):
        broken(f"{what} returns {answer!r}: yield a sentence for each thing that is wrong")
    said = list(answer)
    if strange := [sentence for sentence in said if not isinstance(sentence, str) or not sentence.strip()]:
        broken(f"{what} yields {strange[0]!r}, which is no sentence")
    return said


def not_json(value: Any) -> str:
    """Why JSON cannot hold a value as it is, or nothing. Keys are text, lists no tuples, numbers finite."""
    try:
        again = json.loads(json.dumps(value, allow_nan=False, ensure_ascii=False).encode("utf-8"))
    except (TypeError, ValueError) as error:
        return " ".join(str(error).split())
    return "" if _same(value, again) else f"it comes back as {_short(again)}: keys must be text, and tuples lists"


def _same(one: Any, other: Any) -> bool:
    """Equal, and of the same types all the way down; any mapping is the same as a ``dict`` with its content."""
    if hasattr(one, "keys") and isinstance(other, dict):
        return set(one) == set(other) and all(_same(one[key], other[key]) for key in one)
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def scramble(value: Any) -> None:
    """Change all that can be changed in plain data, as a careless reader might."""
    if isinstance(value, dict):
        for item in value.values():
            scramble(item)
        value.clear()
    elif isinstance(value, list):
        for item in value:
            scramble(item)
        value.clear()


def options_kept(what: str, options: Any, function: Callable[[], Any]) -> Any:
    """What ``function`` returns; it must leave the options as they are."""
    before = copy.deepcopy(options)
    with reporting(what):
        result = function()
    if options != before:
        broken(f"{what} changes the options it is given, which a plan has hashed: it may only read them")
    return result


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


@contextmanager
def without_network() -> Iterator[list[str]]:
    """No network inside: every attempt to reach another machine fails at once, and its host is noted down.

    Whoever waits before trying again does not wait.
    """
    tried: list[str] = []
    names, connect, connect_ex = socket.getaddrinfo, socket.socket.connect, socket.socket.connect_ex
    sleep = time.sleep

    def no_names(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host in (None, "", "localhost", "127.0.0.1", "::1"):
            return names(host, *args, **kwargs)
        tried.append(str(host))
        raise socket.gaierror(socket.EAI_NONAME, "there is no network in a conformance check")

    def refuse(self: socket.socket, address: Any) -> bool:
        here = self.family not in (socket.AF_INET, socket.AF_INET6) or str(address[0]) in ("127.0.0.1", "::1")
        if not here:
            tried.append(str(address[0]))
        return not here

    def no_connect(self: socket.socket, address: Any) -> Any:
        if refuse(self, address):
            raise OSError(101, "there is no network in a conformance check")
        return connect(self, address)

    def no_connect_ex(self: socket.socket, address: Any) -> int:
        return 101 if refuse(self, address) else connect_ex(self, address)

    replaced: list[tuple[Any, str, Any]] = [
        (socket, "getaddrinfo", no_names),
        (socket.socket, "connect", no_connect),
        (socket.socket, "connect_ex", no_connect_ex),
        (time, "sleep", lambda seconds: None if tried else sleep(seconds)),
    ]
    try:
        for owner, name, value in replaced:
            setattr(owner, name, value)
        yield tried
    finally:
        time.sleep = sleep
        socket.getaddrinfo = names
        socket.socket.connect = connect  # type: ignore[method-assign]
        socket.socket.connect_ex = connect_ex  # type: ignore[method-assign]
