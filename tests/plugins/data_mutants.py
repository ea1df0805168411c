"""Files of rows as nobody should write them: of each format and shape, damaged in their meaning or in their bytes."""

from __future__ import annotations

import copy
import datetime
import decimal
import gzip
import io
import json
import random
from collections.abc import Callable
from typing import Any

import pyarrow
import pyarrow.parquet
from attrs import frozen

USER = {"role": "user", "content": "2 + 2? \u00fc"}
RIGHT, WRONG = {"role": "assistant", "content": "4 " * 20}, {"role": "assistant", "content": "5"}
GOOD: dict[str, list[dict[str, Any]]] = {
    "text": [{"text": f"row {number} \u00e9 " * (1 + number % 9), "id": number} for number in range(40)],
    "chat": [
        {"messages": [USER, RIGHT] * (1 + number % 2), "chat_template_kwargs": {"enable_thinking": number % 2 == 0}}
        for number in range(30)
    ],
    "preference": [
        {"prompt": [USER], "chosen": [RIGHT], "rejected": [WRONG]},
        {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"},
        {"chosen": [USER, RIGHT], "rejected": [USER, WRONG]},
    ]
    * 8,
    "problem": [{"messages": [USER], "answer": str(number)} for number in range(30)],
}
ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, float("nan"), float("inf"), 10**30, "", "x", "\0", "half \ud800", "\u2028\u2029\x85", [],
    {}, [None], [[]], {"": {}}, ["text"], [{}], "<|end_of_text|><|im_start|>system", "\ufeff", "x" * 100_000,
    [0] * 5000,
)  # fmt: skip
"""Values for places in which others belong."""


@frozen
class Mutant:
    """A file, and what it is read as."""

    suffix: str
    shape: str
    content: bytes
    is_good: bool
    """Whether nothing was done to it."""


def mutant(seed: int) -> Mutant:
    """The mutant of that number; one in twenty is good."""
    numbers = random.Random(seed)
    suffix = numbers.choice([".jsonl", ".jsonl.gz", ".parquet", ".parquet", ".txt"])
    shape = "text" if suffix == ".txt" else numbers.choice(list(GOOD))
    good = GOOD[shape][::3] if suffix == ".parquet" else GOOD[shape]  # one way to write a pair: columns have types
    if seed % 20 == 0:
        return Mutant(suffix, shape, _packed(suffix, good, numbers), is_good=True)
    in_meaning = numbers.random() < 0.5 and suffix != ".txt"
    rows = _other_rows(json.loads(json.dumps(good)), numbers) if in_meaning else good
    if suffix == ".parquet":
        try:
            content = _parquet(rows, numbers, odd=in_meaning and numbers.random() < 0.3)
        except (pyarrow.ArrowException, OverflowError, UnicodeError):  # no writer takes such rows, so nobody has them
            content, in_meaning = _parquet(good, numbers), False
    else:
        content = _packed(suffix, rows, numbers, odd=in_meaning)
    if not in_meaning:
        content = damaged(content, numbers)
    return Mutant(suffix, shape, content, is_good=False)


def _packed(suffix: str, rows: list[dict[str, Any]], numbers: random.Random, *, odd: bool = False) -> bytes:
    if suffix == ".txt":
        return "".join(row["text"] for row in rows).encode()
    if suffix == ".parquet":
        return _parquet(rows, numbers)
    lines = [json.dumps(row, ensure_ascii=numbers.random() < 0.5) for row in rows]
    if odd and numbers.random() < 0.5:
        place = numbers.randrange(len(lines))
        lines[place] = numbers.choice(_ODD_LINES)(lines[place])
    ending = numbers.choice(["\n", "\n", "\r\n", "\n\n", " \n"])
    encoding = numbers.choice(["utf-8"] * 8 + ["utf-8-sig", "utf-16", "latin-1"]) if odd else "utf-8"
    content = (ending.join(lines) + numbers.choice([ending, ""])).encode(
        encoding, errors="surrogatepass" if encoding != "latin-1" else "replace"
    )
    return gzip.compress(content, mtime=0) if suffix.endswith(".gz") else content


_ODD_LINES: tuple[Callable[[str], str], ...] = (
    lambda line: "",
    lambda line: line + line,
    lambda line: f"[{line}]",
    lambda line: "[" * 5000 + "]" * 5000,
    lambda line: '{"a":' * 3000 + "1" + "}" * 3000,
    lambda line: line[:-1] + f", {line[1:-1]}}}",
    lambda line: line[:-1] + ', "x": NaN}',
    lambda line: line[:-1] + ', "x": ' + "9" * 5000 + "}",
    lambda line: line[:-1] + ",}",
    lambda line: "// " + line,
    lambda line: line.replace('"', "'"),
    lambda line: line.replace('": "', '": "\x01'),
    lambda line: line.replace('": "', '": "\\ud83d'),
    lambda line: "null",
    lambda line: '"text"',
    lambda line: line.upper(),
)  # fmt: skip


def _other_rows(rows: list[dict[str, Any]], numbers: random.Random) -> list[dict[str, Any]]:
    """Rows of which some, or all, hold something else somewhere."""
    chosen = rows if numbers.random() < 0.2 else [numbers.choice(rows)]
    change, value = numbers.choice(["put", "put", "drop", "rename", "add"]), copy.deepcopy(numbers.choice(ODD))
    depth, key_number = numbers.randrange(4), numbers.randrange(1000)
    for row in chosen:
        place: Any = row
        for _ in range(depth):
            inner = [
                item
                for item in (place.values() if isinstance(place, dict) else place)
                if item and isinstance(item, (dict, list))
            ]
            if not inner:
                break
            place = inner[key_number % len(inner)]
        if isinstance(place, list):
            if change in ("put", "rename"):
                place[key_number % len(place)] = copy.deepcopy(value)
            else:
                place.append(copy.deepcopy(value)) if change == "add" else place.pop()
            continue
        key = list(place)[key_number % len(place)]
        if change == "put":
            place[key] = copy.deepcopy(value)
        elif change == "add":
            place[numbers.choice(["x", "role", "", "\x1b[31m"])] = copy.deepcopy(value)
        else:
            taken = place.pop(key)
            if change == "rename":
                place[key.upper()] = taken
    return rows


def _parquet(rows: list[dict[str, Any]], numbers: random.Random, *, odd: bool = False) -> bytes:
    table = pyarrow.Table.from_pylist(rows)
    if odd:
        table = _other_column(table, numbers)
    written = io.BytesIO()
    pyarrow.parquet.write_table(
        table,
        written,
        compression=numbers.choice(["none", "snappy", "zstd", "gzip"]),
        use_dictionary=numbers.random() < 0.5,
        row_group_size=numbers.choice([7, 1000]),
        write_page_checksum=numbers.random() < 0.3,
        store_schema=numbers.random() < 0.5,
        data_page_version=numbers.choice(["1.0", "2.0"]),
    )
    return written.getvalue()


def _other_column(table: pyarrow.Table, numbers: random.Random) -> pyarrow.Table:
    """The table, all values of one of its columns being of a type that JSON lines cannot have."""
    value: Any = numbers.choice(
        [b"\xff\x00", datetime.datetime(1, 1, 1), decimal.Decimal("1.5"), datetime.timedelta(1), 7, None, [b"x"]]
    )
    place = numbers.randrange(table.num_columns)
    column = pyarrow.array([value] * table.num_rows)
    if numbers.random() < 0.2:
        return table.append_column(table.column_names[place], column)  # twice the same name
    return table.set_column(place, table.column_names[place], column)


def damaged(content: bytes, numbers: random.Random) -> bytes:
    """Bits flipped, bytes cut, put in, taken out, set, or moved, some of it preferably near the end."""
    data = bytearray(content)
    for _ in range(numbers.choice([1, 1, 2, 5, 20])):
        if not data:
            break
        near_end = numbers.random() < 0.5
        place = len(data) - 1 - numbers.randrange(min(len(data), 600)) if near_end else numbers.randrange(len(data))
        how = numbers.randrange(6)
        if how == 0:
            data[place] ^= 1 << numbers.randrange(8)
        elif how == 1:
            del data[place:]
        elif how == 2:
            data[place:place] = numbers.randbytes(numbers.randrange(1, 9))
        elif how == 3:
            del data[place : place + numbers.randrange(1, 9)]
        elif how == 4:
            data[place] = numbers.choice([0, 255, 127, 128, 10])
        else:
            source, count = numbers.randrange(len(data)), numbers.randrange(1, 40)
            data[place : place + count] = data[source : source + count]
    return bytes(data)
