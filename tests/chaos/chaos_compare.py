"""Whether two runs of a stage published the same: every byte but what tells the time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

TIMED = ("stage.json", "metrics.jsonl", "log.txt")
"""Files that tell when something was, and how fast: they are compared for the rest of what they say."""

MANIFEST = "manifest.json"
_TIMES_OF_A_RECORD = ("started", "seconds", "attempts")
_TIMES_OF_AN_EVENT = ("time", "tokens_per_second", "memory_gib", "gpu_memory_gib")


LAUNCHED_ANOTHER_WAY = ("provenance", "packages.smolrecipe-warm")
"""What stage.json says of how processes were started, which changes no result."""


def differences(reference: Path, found: Path, but_for: Sequence[str] = ()) -> list[str]:
    """What differs between two artifacts of one stage, one sentence each; times do not count.

    Args:
        but_for: what stage.json may say otherwise.
    """
    return [f"{found.name}: {difference}" for difference in _differences(reference, found, but_for)]


def _differences(reference: Path, found: Path, but_for: Sequence[str]) -> Iterator[str]:
    wanted, there = files(reference), files(found)
    yield from (f"{name} is missing" for name in sorted(wanted.keys() - there.keys()))
    yield from (f"{name} is there besides" for name in sorted(there.keys() - wanted.keys()))
    for name in sorted(wanted.keys() & there.keys()):
        if name not in (*TIMED, MANIFEST) and wanted[name] != there[name]:
            yield f"{name} has other bytes"
    for key, what in _changes("", record(reference), record(found)):
        if key not in but_for:
            yield f"stage.json has another {key}: {what}"
    if steps(reference) != steps(found):
        yield f"metrics.jsonl has other steps: {_numbers(found)} for {_numbers(reference)}, or other values in them"
    yield from manifest_errors(found)


def _changes(path: str, reference: Any, found: Any) -> Iterator[tuple[str, str]]:
    """Where two values differ, as far down in them as can be told, and how."""
    if isinstance(reference, dict) and isinstance(found, dict):
        for key in sorted(reference.keys() | found.keys()):
            yield from _changes(f"{path}.{key}".lstrip("."), reference.get(key), found.get(key))
    elif reference != found:
        yield path, f"{found!r} for {reference!r}"


def _numbers(artifact: Path) -> list[int]:
    return [step["step"] for step in steps(artifact)]


def files(artifact: Path) -> dict[str, str]:
    """The checksum of every file."""
    return {
        str(path.relative_to(artifact)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(artifact.rglob("*"))
        if path.is_file()
    }


def record(artifact: Path) -> dict[str, Any]:
    """What stage.json says, but for times."""
    said = json.loads((artifact / "stage.json").read_text())
    return {key: value for key, value in said.items() if key not in _TIMES_OF_A_RECORD}


def steps(artifact: Path) -> list[Mapping[str, Any]]:
    """The steps that were reported, as they stand in the file, but for times."""
    path = artifact / "metrics.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [
        {key: value for key, value in event.items() if key not in _TIMES_OF_AN_EVENT}
        for event in events
        if "step" in event
    ]


IN_BATCHES = "reasoning-pairs-"
"""The stage that reports what a batch of answers adds."""


def step_errors(artifact: Path) -> list[str]:
    """What is wrong with the steps of an artifact, where it reported any: each is to be there once, in order.

    Answers of models come in batches: there, a batch at a time, up to the last.
    """
    numbers, lengths = _numbers(artifact), {step["steps"] for step in steps(artifact)}
    if not numbers:
        return []
    if len(lengths) == 1:
        (last,) = lengths
        size = numbers[0] if artifact.name.startswith(IN_BATCHES) else 1
        if numbers == list(range(size, last + 1, size)):
            return []
    return [f"{artifact.name}: metrics.jsonl has the steps {numbers}"]


def manifest_errors(artifact: Path) -> Iterator[str]:
    """What the manifest says of the files that is not so."""
    noted = json.loads((artifact / MANIFEST).read_text())
    noted = noted.get("files", noted)
    there = files(artifact)
    for name in sorted(noted.keys() | there.keys() - {MANIFEST}):
        entry = noted.get(name)
        if entry is None or name not in there or entry["sha256"] != there[name]:
            yield f"the manifest does not describe {name} as it is"
