"""The changes of a comparison as lines for a person: the same change of several stages once, many entries as one."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from smolrecipe.comparing.changes import ABSENT, Change
from smolrecipe.comparing.compare import Comparison
from smolrecipe.comparing.known import Known
from smolrecipe.errors import Place
from smolrecipe.recipe.nodes import Path_
from smolrecipe.recipe.sweep_names import value_text

_MANY = 3
"""So many entries that one side lacks are told in one line."""


@frozen(kw_only=True)
class Line:
    """One difference: the option, both values (nothing for what one side lacks), where they were written."""

    option: str
    a: str
    b: str
    written: tuple[str, str]


def sections(comparison: Comparison, *, has_effect: bool) -> list[tuple[tuple[str, ...], list[Line]]]:
    """Lines under the stages that they are about, those of several stages before those of one of these alone."""
    of_stage = {pair.name: pair for pair in comparison.common}
    file_names = _file_names(comparison)
    owners: dict[tuple[str, str, str], list[str]] = {}
    first: dict[tuple[str, str, str], Line] = {}
    for change, old, new in _collapsed([c for c in comparison.changes if c.has_effect == has_effect]):
        pair = of_stage.get(change.stage)
        known_a = pair.a.known if pair is not None and pair.a is not None else Known()
        known_b = pair.b.known if pair is not None and pair.b is not None else Known()
        line = Line(
            option=_option(change),
            a=old if old is not None else _text(change.a, change.b, change.path, known_a),
            b=new if new is not None else _text(change.b, change.a, change.path, known_b),
            written=(
                _written(change.written_a, change.a, comparison.a.kind, file_names),
                _written(change.written_b, change.b, comparison.b.kind, file_names),
            ),
        )
        key = (line.option, line.a, line.b)
        first.setdefault(key, line)
        owners.setdefault(key, []).append(change.stage)
    grouped: dict[tuple[str, ...], list[Line]] = {}
    for key, stages in owners.items():
        grouped.setdefault(tuple(stages), []).append(first[key])
    rank = {pair.name: index for index, pair in enumerate(comparison.pairs)}
    return sorted(grouped.items(), key=lambda item: (rank.get(item[0][0], -1), -len(item[0])))


def _collapsed(changes: Sequence[Change]) -> Iterator[tuple[Change, str | None, str | None]]:
    """Each change with its texts where those are not just its values'; entries that one side lacks taken together."""

    def family(change: Change) -> tuple[str, Path_, bool, bool]:
        return change.stage, change.path[:-1], change.a is ABSENT, change.b is ABSENT

    alone = [change for change in changes if ABSENT in (change.a, change.b) and change.path]
    sizes = Counter(map(family, alone))
    told = set()
    for change in changes:
        mine = family(change)
        if change not in alone or sizes[mine] < _MANY:
            yield change, None, None
        elif mine not in told:
            told.add(mine)
            names = [str(other.path[-1]) for other in alone if family(other) == mine]
            entries = f"{len(names)} entries: {', '.join(names)}"
            yield evolve(change, path=change.path[:-1]), *(("", entries) if change.a is ABSENT else (entries, ""))


def _option(change: Change) -> str:
    path = ".".join(map(str, change.path)) or "use"
    return f"order of {path}" if change.order else path


def _text(value: Any, other: Any, path: Path_, known: Known) -> str:
    """A value; of a component the options that are no defaults, and those that the other one has otherwise."""
    if value is ABSENT:
        return ""
    if isinstance(value, Mapping) and "use" in value:
        rival = other if isinstance(other, Mapping) else {}
        return value_text(_without_defaults(value, rival, path, known))
    return value_text(value) if value != "" else '""'


def _without_defaults(value: Any, rival: Mapping[str, Any], path: Path_, known: Known) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {
        key: _without_defaults(item, {}, (*path, key), known)
        for key, item in value.items()
        if (*path, key) not in known.defaults or (key in rival and rival[key] != item)
    }


def _written(place: Place | None, value: Any, kind: str, names: Mapping[str, str]) -> str:
    if kind != "recipe" or value is ABSENT:
        return ""
    if place is None:
        return "default"
    return f"{names[place.file]}:{place.line}" if place.line is not None else place.file


def _file_names(comparison: Comparison) -> dict[str, str]:
    """How each file is called: by its name alone, where no other one has it."""
    places = [place for change in comparison.changes for place in (change.written_a, change.written_b) if place]
    files = {place.file for place in places if place.line is not None}
    names = Counter(Path(file).name for file in files)
    return {
        file: Path(file).name if names[Path(file).name] == 1 else os.path.relpath(file)  # several of one name
        for file in files
    }
