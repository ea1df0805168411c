"""Recipe values that know where they were written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from attrs import frozen

from smolrecipe.errors import Place

Path_ = tuple[str | int, ...]
Scalar = str | int | float | bool | None


@frozen
class Node:
    """A YAML value with its place. ``key_places`` of a mapping are the places of its keys.

    A mapping that ``replaces`` is not merged over what it would inherit.
    """

    value: Scalar | dict[str, Node] | list[Node]
    place: Place
    key_places: Mapping[str, Place] = {}
    replaces: bool = False


class PlacedText(str):
    """Text from a recipe that knows its place, so that a relative path can start from its file."""

    place: Place

    def __new__(cls, text: str, place: Place) -> PlacedText:
        """Make the text, placed."""
        placed = super().__new__(cls, text)
        placed.place = place
        return placed


def plain(node: Node) -> Any:
    """The node's value as plain Python data; texts keep their places."""
    value = node.value
    if isinstance(value, dict):
        return {key: plain(child) for key, child in value.items()}
    if isinstance(value, list):
        return [plain(child) for child in value]
    if isinstance(value, str):
        return PlacedText(value, node.place)
    return value


def size(node: Node) -> int:
    """How many values the node is and holds."""
    if isinstance(node.value, dict):
        return 1 + sum(map(size, node.value.values()))
    return 1 + sum(map(size, node.value)) if isinstance(node.value, list) else 1


def places(node: Node, path: Path_ = ()) -> Iterator[tuple[Path_, Place]]:
    """The place of every value in the node. A mapping's entry has the place of its key."""
    yield path, node.place
    value = node.value
    if isinstance(value, dict):
        for key, child in value.items():
            for child_path, place in places(child, (*path, key)):
                yield child_path, node.key_places.get(key, place) if len(child_path) == len(path) + 1 else place
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from places(child, (*path, index))


def merge(base: Node, over: Node) -> Node:
    """``over`` laid over ``base``.

    Mappings are merged key by key, everything else is replaced. A mapping whose ``use:`` differs from the base's
    replaces it whole: the options of one component mean nothing to another. So does one that says ``extends: null``.
    ``null`` removes the base's key.
    """
    if over.replaces or not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    if _use(over) is not None and _use(base) is not None and _use(over) != _use(base):
        return over
    merged = dict(base.value)
    key_places = dict(base.key_places)
    for key, child in over.value.items():
        if child.value is None and key in merged:
            del merged[key]
            continue
        merged[key] = merge(merged[key], child) if key in merged else child
        key_places[key] = over.key_places.get(key, child.place)
    return Node(merged, over.place, key_places, base.replaces)


def _use(node: Node) -> Scalar | dict[str, Node] | list[Node]:
    assert isinstance(node.value, dict)
    use = node.value.get("use")
    return use.value if use is not None else None
