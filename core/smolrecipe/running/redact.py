"""Secrets of the environment, kept out of all that a run writes and prints.

What counts as one: the value of an environment variable whose name says so (``HF_TOKEN``, ``WANDB_API_KEY``, ...), of
eight characters or more, and the user and password in a URL. A secret is replaced by ``***NAME***``. Everything that a
stage prints passes through this file, run as a program of its own: it outlives a killed runner, and reads on when the
disk is full, so that no stage ever waits for it. It imports the standard library alone, to start at once.
"""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import sys
import urllib.parse
from collections.abc import Mapping
from typing import Any

SHORTEST = 8
"""Characters of the shortest value that is replaced: ``true`` or ``1`` in a variable with such a name is no secret."""

_NAME = re.compile(
    r"TOKEN(?!IZ)|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|_KEY$|_PWD$|_PAT$",
    re.IGNORECASE,
)
_URL = re.compile(rb"://[^\s/:@\"'<>]{0,200}:[^\s/@\"'<>]{1,200}@")
_LONGEST_URL = 450
_LONGEST_LINE = 1 << 16


def redact(text: str) -> str:
    """The text without the secrets of this process' environment."""
    return _redact_text(text, *_secrets())


def redact_value(value: Any) -> Any:
    """A JSON value (mappings, lists, text, numbers) with no secret in any of its texts, keys included."""
    names, pattern = _secrets()  # once, not for each of the texts

    def redacted(value: Any) -> Any:
        if isinstance(value, str):
            return _redact_text(value, names, pattern)
        if isinstance(value, Mapping):
            return {redacted(key): redacted(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [redacted(item) for item in value]
        return value

    return redacted(value)


def _secrets() -> tuple[dict[bytes, bytes], re.Pattern[bytes] | None]:
    return _compiled(tuple((name, value) for name, value in os.environ.items() if _is_secret(name, value)))


def _is_secret(name: str, value: str) -> bool:
    # A variable may also say where a secret lies. The path is none, and hiding it would spoil every message about it.
    return len(value) >= SHORTEST and _NAME.search(name) is not None and not os.path.exists(value)  # noqa: PTH110


@functools.lru_cache(maxsize=4)
def _compiled(secrets: tuple[tuple[str, str], ...]) -> tuple[dict[bytes, bytes], re.Pattern[bytes] | None]:
    """What replaces each way in which a secret may be written, and a pattern that finds them, the longest first."""
    names: dict[bytes, bytes] = {}
    for name, value in secrets:
        for written in _ways_to_write(value):
            names.setdefault(written.encode(errors="surrogateescape"), f"***{name}***".encode())
    if not names:
        return names, None
    return names, re.compile(b"|".join(re.escape(written) for written in sorted(names, key=len, reverse=True)))


def _ways_to_write(value: str) -> set[str]:
    """A value as it is, as Python, JSON and URLs quote it, and the lines of one that has several."""
    lines = [line for line in value.splitlines() if len(line) >= SHORTEST]
    ways = set()
    for text in (value, *lines):
        ways |= {text, repr(text)[1:-1], urllib.parse.quote(text), urllib.parse.quote(text, safe="")}
        ways |= {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
    return ways


def _redact_text(text: str, names: Mapping[bytes, bytes], pattern: re.Pattern[bytes] | None) -> str:
    return _redact(text.encode(errors="surrogatepass"), names, pattern).decode(errors="surrogatepass")


def _redact(data: bytes, names: Mapping[bytes, bytes], pattern: re.Pattern[bytes] | None) -> bytes:
    if pattern is not None:
        data = pattern.sub(lambda match: names[match[0]], data)
    return _URL.sub(b"://***@", data) if b"://" in data else data


class _Stream:
    """Redacts what arrives in pieces; a piece that may end within a secret is held back."""

    def __init__(self) -> None:
        self._names, self._pattern = _secrets()
        self._longest = max(_LONGEST_URL, *map(len, self._names), 0) if self._names else _LONGEST_URL
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """What is sure to be whole after ``data``: up to the last line's end, or most of a line that does not end."""
        self._held += data
        end = max(self._held.rfind(b"\n"), self._held.rfind(b"\r")) + 1
        if not end and len(self._held) > _LONGEST_LINE:
            end = len(self._held) - self._longest
            found = [] if self._pattern is None else self._pattern.finditer(self._held)
            end = next((match.end() for match in (*found, *_URL.finditer(self._held)) if end in _inside(match)), end)
        whole, self._held = self._held[:end], self._held[end:]
        return _redact(whole, self._names, self._pattern)

    def rest(self) -> bytes:
        """What was held back."""
        return _redact(self._held, self._names, self._pattern)


def _inside(match: re.Match[bytes]) -> range:
    return range(match.start() + 1, match.end())


def main(path: str) -> None:
    """Append standard input to the file, without secrets, until it ends; go on reading where writing fails."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # schedulers send it to every process; the stage still has to save
    stream = _Stream()
    target = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    while data := os.read(0, 1 << 16):
        _write(target, stream.feed(data))
    _write(target, stream.rest())


def _write(target: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(target, data) :]
        except OSError:
            return  # a full disk: the stage says so itself, and must not wait


if __name__ == "__main__":
    main(sys.argv[1])
