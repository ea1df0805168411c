"""What is read of a published stage: a record and events, of which nothing may be as publishing writes it."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest

from smolrecipe.published import is_stage_name, read_events, read_record

RECORD: dict[str, Any] = {
    "recipe": "toy",
    "stage": "two",
    "kind": "count",
    "digest": "a" * 64,
    "parents": {"one": "b" * 64},
    "options": {"use": "count", "to": 3},
    "plugins": {"toy": {"version": "1.0", "source": "c" * 64}},
    "started": "2026-01-01T00:00:00+00:00",
    "seconds": 1.5,
    "measures": [{"name": "n", "after": 1, "before": None, "better": "higher", "unit": "", "samples": 3}],
    "summary": {"loss": float("inf")},
}
VALUES: list[Any] = [
    None,
    True,
    -1,
    10**30,
    float("nan"),
    "",
    "../..",
    "/etc",
    [],
    [[]],
    {},
    {"use": 1},
    {"../x": "b" * 64},
]


def write(tmp_path: Path, record: Any) -> Path:
    file = tmp_path / "stage.json"
    file.write_text(json.dumps(record))
    return file


def test_a_record_as_publishing_writes_it_is_read_whole(tmp_path: Path) -> None:
    assert read_record(write(tmp_path, RECORD)) == RECORD


@pytest.mark.parametrize("key", RECORD)
def test_each_key_is_needed(tmp_path: Path, key: str) -> None:
    file = write(tmp_path, {name: value for name, value in RECORD.items() if name != key})
    with pytest.raises(ValueError, match=f"stage.json is not the record of a stage: it has no '{key}'"):
        read_record(file)


def test_2000_records_with_something_else_in_some_place_are_refused_or_used_without_a_crash(tmp_path: Path) -> None:
    """What is read has the types that everyone relies on: parents lead to folders beside, numbers are numbers."""
    draw = random.Random(0)
    refused = 0
    for _ in range(2000):
        record = copy.deepcopy(RECORD)
        holder, key = draw.choice(places(record))
        holder[key] = copy.deepcopy(draw.choice(VALUES))
        file = write(tmp_path, record)
        try:
            found = read_record(file)
        except ValueError as error:
            assert str(error).startswith(str(file)) and str(error).isprintable()
            refused += 1
            continue
        assert all("/" not in name and len(digest) == 64 for name, digest in found["parents"].items())
        assert f"{found['seconds']:.1f}" and found["options"]["use"] + found["stage"] + found["started"]
        assert all(f"{measure['after']:.4g}{measure['before'] or 0:.4g}" for measure in found["measures"])
    assert refused > 500


def places(value: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += [(value, key), *places(item)]
    return found


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "a b", "a\n", "x" * 300, None, 3, "\x1b"])
def test_names_that_no_stage_has(name: Any) -> None:
    assert not is_stage_name(name)


def test_stage_names() -> None:
    assert all(map(is_stage_name, ("pretrain-1", "a_b.c", "SmolLM3-3B", "größe")))


def test_events_are_whole_lines_that_say_something(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    assert read_events(file) == []
    good = [{"step": 1, "steps": 2, "loss": float("nan")}, {"message": "né"}, {"checkpoint": 1}]
    bad = [b"[1]", b"null", b"{", b"[" * 100_000, b"\xff\xfe", b'{"step": "1"}', b'{"checkpoint": true}', b"9" * 9999]
    lines = [json.dumps(event).encode() for event in good]
    file.write_bytes(b"\n".join([bad[0], lines[0], *bad[1:5], lines[1], *bad[5:], lines[2], b'{"step": 2, "ste']))
    assert repr(read_events(file)) == repr(good)
