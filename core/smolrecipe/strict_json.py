"""JSON files that may be damaged, or a stranger's: read whole and unambiguous, or refused in a sentence.

Python's own reader takes the last of two equal keys and ends in a ``RecursionError`` where brackets are nested deeply.
As there, NaN and Infinity are numbers: scores are published with them, and so are configurations of models.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MOST_BYTES = 2**28
"""The largest JSON file that is read: a manifest of a million files has two thirds of it."""


def read_json(path: Path, *, most_bytes: int = MOST_BYTES) -> Any:
    """The value in a JSON file.

    Raises:
        ValueError: when there is no such file or its content is no JSON; the message begins with the path.
    """
    return parse_json(read_bytes(path, most_bytes=most_bytes), str(path))


def read_mapping(path: Path, *, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """The mapping in a JSON file.

    Raises:
        ValueError: as ``read_json`` does, and when the file holds something else than a mapping.
    """
    value = read_json(path, most_bytes=most_bytes)
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no mapping")
    return value


def read_bytes(path: Path, *, most_bytes: int = MOST_BYTES) -> bytes:
    """The content of a regular file. What is none, a pipe or a device, is not waited for.

    Raises:
        ValueError: when there is no such file, or it is too large; the message begins with the path.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path} is no regular file")
        if status.st_size > most_bytes:
            raise ValueError(f"{path} has {status.st_size:,} bytes, more than the {most_bytes:,} that it may have")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(most_bytes + 1)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from None
    finally:
        os.close(descriptor)


def parse_json(content: bytes, name: str) -> Any:
    """The value in the content of a JSON file called ``name``.

    Raises:
        ValueError: when it is no JSON; the message begins with ``name``.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8 text (byte {error.start:,})") from None
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is no JSON (line {error.lineno}, column {error.colno}: {error.msg})") from None
    except RecursionError:
        raise ValueError(f"{name} is nested too deeply") from None
    except ValueError as error:  # a duplicate, or a number of more digits than Python converts
        raise ValueError(f"{name} is no JSON that could be meant ({str(error).partition(';')[0]})") from None


def _without_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {printable(key)} is there twice")
        found[key] = value
    return found


_LONGEST = 200


def printable(text: str) -> str:
    """Text from a file as it may be shown on a terminal: quoted where it has control characters, and not too long."""
    shown = text if text.isprintable() else ascii(text)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."
