"""JSON lines, plain or gzipped, a line at a time."""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from smolrecipe import StageError
from smolrecipe_data.rows import LONGEST_ROW
from smolrecipe_data.wording import printable

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_jsonl(file: BinaryIO, where: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The objects of a file with the numbers of their lines, from 1; ``where`` names the file.

    Lines with white space alone hold nothing. A byte order mark before the first line is none of its text.

    Raises:
        StageError: for a line that is not one JSON object in UTF-8, has a key twice, or is longer than a row may be.
    """
    number = 0
    while line := file.readline(LONGEST_ROW + 1):
        number += 1
        if len(line) > LONGEST_ROW:
            raise StageError(
                f"{where}:{number}: the line has more than {LONGEST_ROW:,} bytes, the most that a row may have: split "
                "what it holds into several rows"
            )
        if number == 1:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if line.strip():
            yield number, _record(line, f"{where}:{number}")


def read_jsonl_gz(file: BinaryIO, where: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The same of a gzipped file, which is unpacked as it is read.

    Raises:
        StageError: for what is not gzip, or broken off.
    """
    try:
        with gzip.GzipFile(fileobj=file, mode="rb") as unpacked:
            yield from read_jsonl(unpacked, where)  # type: ignore[arg-type]  # it is read like any other
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise StageError(f"{where} is not a gzip file that can be read to its end: {error}") from None


def _record(line: bytes, place: str) -> Mapping[str, Any]:
    try:
        record = json.loads(line.decode("utf-8"), object_pairs_hook=_object)
    except _TwiceError as error:
        raise StageError(f"{place}: the key '{printable(error)}' stands twice in one object") from None
    except UnicodeDecodeError as error:
        raise StageError(f"{place}: not UTF-8: {error.reason} at byte {error.start} of the line") from None
    except RecursionError:
        raise StageError(f"{place}: lists or objects are nested too deep to be read") from None
    except json.JSONDecodeError as error:
        raise StageError(f"{place}: not JSON: {printable(error.msg)} at character {error.pos} of the line") from None
    except ValueError as error:  # a number of thousands of digits
        raise StageError(f"{place}: not JSON that can be read: {printable(error)}") from None
    if not isinstance(record, dict):
        raise StageError(f"{place}: a line must hold a JSON object, and this one holds {_JSON_NAMES[type(record)]}")
    return record


class _TwiceError(Exception):
    """A key that an object has twice: programs take the first or the last of its values."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _TwiceError(Counter(key for key, _ in pairs).most_common(1)[0][0][:60])
    return found


_JSON_NAMES = {
    list: "a list",
    str: "text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}
