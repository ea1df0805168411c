"""Why a stage of one side is not the stage of the other to the digest, so that it would run again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from attrs import frozen

from smolrecipe.comparing.changes import Change
from smolrecipe.comparing.sides import SideStage


@frozen(kw_only=True)
class Reason:
    """One thing that a stage's digest covers and that differs."""

    kind: Literal["option", "plugin", "data", "parent", "name", "unknown"]
    what: str
    about: str = ""
    """The plugin, the option behind which data lies, or A's name of the parent."""


def reasons_of(a: SideStage, b: SideStage, changes: Sequence[Change], names: Mapping[str, str]) -> list[Reason]:
    """All that makes two digests differ, own options first. ``names`` are A's names of B's stages."""
    if a.digest == b.digest:
        return [] if a.name == b.name else [Reason(kind="name", what=f"is called '{b.name}' in B")]
    found = [
        Reason(kind="option", what=("order of " if change.order else "") + (".".join(map(str, change.path)) or "use"))
        for change in changes
        if change.has_effect
    ]
    exchanged = any(change.component for change in changes)
    found.extend(_plugins(a, b, exchanged=exchanged))
    found.extend(_data(a, b, {".".join(map(str, change.path)) for change in changes if _tells_of_data(change, a, b)}))
    found.extend(_parents(a, b, names))
    if not found:
        found.append(
            Reason(kind="unknown", what="nothing that is on record: data of an older run, or how digests are made")
        )
    return found


def _plugins(a: SideStage, b: SideStage, *, exchanged: bool) -> Iterator[Reason]:
    for name in dict.fromkeys([*a.plugins, *b.plugins]):
        if name not in a.plugins or name not in b.plugins:
            if not exchanged:  # otherwise the component that is exchanged says it
                yield Reason(kind="plugin", what=f"'{name}' only in {'A' if name in a.plugins else 'B'}", about=name)
            continue
        (old, old_source), (new, new_source) = a.plugins[name], b.plugins[name]
        if old != new:
            yield Reason(kind="plugin", what=f"'{name}' {old} -> {new}", about=name)
        elif old_source != new_source:
            yield Reason(kind="plugin", what=f"'{name}' (source)", about=name)


def _tells_of_data(change: Change, a: SideStage, b: SideStage) -> bool:
    """Whether an option that differs is why the data behind it does: where a file lies, and in which order, is not."""
    is_place = change.path in a.known.files and change.path in b.known.files
    return change.has_effect and not change.order and not is_place


def _data(a: SideStage, b: SideStage, told: set[str]) -> Iterator[Reason]:
    """Data that differs behind options that do not."""
    if a.data is None or b.data is None:
        return
    for where in dict.fromkeys([*a.data, *b.data]):
        by_an_option = any(f"{where}.".startswith(f"{what}.") or f"{what}.".startswith(f"{where}.") for what in told)
        if a.data.get(where, "") != b.data.get(where, "") and not by_an_option:
            yield Reason(kind="data", what=where, about=where)


def _parents(a: SideStage, b: SideStage, names: Mapping[str, str]) -> Iterator[Reason]:
    for own_name, digest in b.parents.items():
        name = names.get(own_name, own_name)
        if name not in a.parents:
            continue  # another reference: an option says so
        if a.parents[name] != digest:
            yield Reason(kind="parent", what=name, about=name)
        elif name != own_name:
            yield Reason(kind="parent", what=f"{name} (called '{own_name}' in B)", about=name)
