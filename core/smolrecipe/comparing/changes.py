"""Which options of a stage differ, after everything that a recipe leaves to defaults and files is resolved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from attrs import frozen

from smolrecipe.comparing.known import Known
from smolrecipe.comparing.sides import Side, SideStage
from smolrecipe.errors import Place
from smolrecipe.options import StageRef
from smolrecipe.recipe.nodes import Path_


class Absent:
    """The value of an option that one side does not have."""

    def __repr__(self) -> str:
        return "absent"


ABSENT: Final = Absent()


@frozen(kw_only=True)
class Change:
    """An option, a component or an entry of a mapping that is not the same on both sides."""

    stage: str
    """A's name of the stage; nothing for what stands beside the stages."""
    path: Path_
    a: Any
    b: Any
    written_a: Place | None
    """Where it was written; ``None`` for a default, and for a run, which has no file."""
    written_b: Place | None
    has_effect: bool
    """Whether it changes a result."""
    component: str = ""
    """``loss``, ``optimizer``: what is exchanged, added or removed, where that is a component."""
    order: bool = False
    """Whether it is the order of a mapping's entries that differs; ``a`` and ``b`` are their names then."""


def changes_of(a: SideStage, b: SideStage, names: Mapping[str, str]) -> list[Change]:
    """What differs between two stages. ``names`` are A's names of B's stages, where they go by another."""
    translated = _translate(b.options, (), _references(b), names)
    found: list[Change] = []
    for path, old, new in _reordered(a.options, translated, (), a.known.ordered & b.known.ordered):
        if a.digest != b.digest and a.known.has_effect(path):
            places = (written(a.places, path, old), written(b.places, path, new))
            found.append(_order_change(a.name, path, old, new, places))
    for path, old, new in _differences(a.options, translated, ()):
        if _same_file(path, a, b) or _only_there_now(path, old, new, a, b):
            continue
        has_effect = a.known.has_effect(path) and b.known.has_effect(path) and a.digest != b.digest
        if not has_effect and a.digest == b.digest and a.known.has_effect(path) and a.use is not None:
            continue  # the same to the digest: what is left is where a file lies
        found.append(
            Change(
                stage=a.name,
                path=path,
                a=old,
                b=new,
                written_a=written(a.places, path, old),
                written_b=written(b.places, path, new),
                has_effect=has_effect,
                component=_component(path, old, new, a.known, b.known),
            )
        )
    return found


def changes_around(a: Side, b: Side) -> list[Change]:
    """What differs between two recipes besides their stages."""
    if not (a.around and b.around):
        return []
    return [
        Change(
            stage="",
            path=path,
            a=old,
            b=new,
            written_a=written(a.places, path, old),
            written_b=written(b.places, path, new),
            has_effect=False,
        )
        for path, old, new in _differences(a.around, b.around, ())
    ]


def written(places: Mapping[Path_, Place], path: Path_, value: Any) -> Place | None:
    """Where the value at a path was written, of a component where it was chosen."""
    if isinstance(value, Mapping) and (*path, "use") in places:
        return places[*path, "use"]
    return places.get(path) if value is not ABSENT else None


def _differences(a: Any, b: Any, path: Path_) -> Iterator[tuple[Path_, Any, Any]]:
    """Path and values of what differs; a component that is exchanged as a whole."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if a.get("use") != b.get("use"):
            yield path, a, b
            return
        for key in dict.fromkeys([*a, *b]):
            yield from _differences(a.get(key, ABSENT), b.get(key, ABSENT), (*path, key))
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b) and all(map(_is_mapping, (*a, *b))):
        for index, (one, other) in enumerate(zip(a, b, strict=True)):
            yield from _differences(one, other, (*path, index))
    elif not _equal(a, b):
        yield path, a, b


def _reordered(a: Any, b: Any, path: Path_, ordered: frozenset[Path_]) -> Iterator[tuple[Path_, Any, Any]]:
    """Path and names of the entries of each mapping whose common entries come in another order."""
    if isinstance(a, Mapping) and isinstance(b, Mapping) and a.get("use") == b.get("use"):
        if path in ordered and [key for key in a if key in b] != [key for key in b if key in a]:
            yield path, list(a), list(b)
        for key in a:
            if key in b:
                yield from _reordered(a[key], b[key], (*path, key), ordered)
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for index, (one, other) in enumerate(zip(a, b, strict=True)):
            yield from _reordered(one, other, (*path, index), ordered)


def _order_change(stage: str, path: Path_, a: Any, b: Any, places: tuple[Place | None, Place | None]) -> Change:
    written_a, written_b = places
    return Change(
        stage=stage, path=path, a=a, b=b, written_a=written_a, written_b=written_b, has_effect=True, order=True
    )


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    return bool(a == b)


def _references(stage: SideStage) -> frozenset[Path_]:
    """Where the stage names others. Without types: texts that are the name of one of its parents."""
    if stage.use is not None:
        return stage.known.references
    return frozenset(path for path, text in _texts(stage.options, ()) if StageRef.parse(text).stage in stage.parents)


def _texts(value: Any, path: Path_) -> Iterator[tuple[Path_, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, (*path, key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _texts(item, (*path, index))


def _translate(value: Any, path: Path_, references: frozenset[Path_], names: Mapping[str, str]) -> Any:
    """The options with every reference in A's names."""
    if path in references:
        reference = StageRef.parse(str(value))
        return str(StageRef(names.get(reference.stage, reference.stage), reference.checkpoint))
    if isinstance(value, Mapping):
        return {key: _translate(item, (*path, key), references, names) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_translate(item, (*path, index), references, names) for index, item in enumerate(value)]
    return value


def _same_file(path: Path_, a: SideStage, b: SideStage) -> bool:
    """Whether a path differs and what lies there does not."""
    if path not in a.known.files or path not in b.known.files or a.data is None or b.data is None:
        return False
    around = [".".join(map(str, path[:end])) for end in range(1, len(path) + 1)]
    return any(a.data.get(where) and a.data.get(where) == b.data.get(where) for where in around)


def _only_there_now(path: Path_, old: Any, new: Any, a: SideStage, b: SideStage) -> bool:
    """Whether one side was made when there was no such option, and the other has its default."""
    return (old is ABSENT and path in b.known.defaults) or (new is ABSENT and path in a.known.defaults)


def _component(path: Path_, old: Any, new: Any, a: Known, b: Known) -> str:
    if not any(isinstance(value, Mapping) and "use" in value for value in (old, new)):
        return ""
    return a.components.get(path) or b.components.get(path) or "component"
