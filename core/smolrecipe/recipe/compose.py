"""Composing a recipe: ``extends:`` in any mapping, and ``--set a.b.c=value`` over all.

``extends: file`` loads a file under the mapping: one beside the file that says so or, where there is none, a recipe
that ships with smolrecipe, by its name. ``extends: null`` says that the mapping stands alone and replaces what it would
inherit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from smolrecipe.errors import Place, Problem, RecipeError, near_miss
from smolrecipe.recipe.nodes import Node, merge
from smolrecipe.recipe.read import read_file, read_value
from smolrecipe.recipe.shipped import shipped_recipe, shipped_recipes

EXTENDS = "extends"


def compose(path: Path, settings: Sequence[str] = ()) -> Node:
    """The recipe in ``path`` with every ``extends:`` resolved and the ``key=value`` settings laid over it.

    Raises:
        RecipeError: for a file that cannot be read, a cycle of files, or a setting that cannot be parsed.
    """
    node = _load(path, ())
    for names, value in map(parse_setting, settings):
        node = lay_over(node, names, value, value.place)
    return node


def _load(path: Path, chain: tuple[Path, ...]) -> Node:
    resolved = path.resolve()
    if resolved in chain:
        cycle = " -> ".join(file.name for file in (*chain[chain.index(resolved) :], resolved))
        raise RecipeError([f"{path}: 'extends:' goes round in a circle: {cycle}"])
    return _resolve(read_file(path), (*chain, resolved))


def _resolve(node: Node, chain: tuple[Path, ...]) -> Node:
    """The node with every ``extends:`` in it resolved."""
    if isinstance(node.value, list):
        return Node([_resolve(child, chain) for child in node.value], node.place)
    if not isinstance(node.value, dict):
        return node
    children = {key: _resolve(child, chain) for key, child in node.value.items() if key != EXTENDS}
    own = Node(children, node.place, node.key_places)
    extends = node.value.get(EXTENDS)
    if extends is None:
        return own
    if extends.value is None:
        return Node(children, node.place, node.key_places, replaces=True)
    references = extends.value if isinstance(extends.value, list) else [extends]
    base: Node | None = None
    for reference in references:
        loaded = _load(_file(reference), chain)
        base = loaded if base is None else merge(base, loaded)
    return own if base is None else merge(base, own)


def _file(reference: Node) -> Path:
    if not isinstance(reference.value, str):
        raise RecipeError([Problem("'extends' names a file, or a list of files", reference.place)])
    path = reference.place.folder / reference.value
    if path.is_file():
        return path
    shipped = shipped_recipe(reference.value)
    if shipped is not None:
        return shipped
    hint = near_miss(reference.value, shipped_recipes())
    raise RecipeError(
        [Problem(f"'extends' names '{reference.value}', but there is no file {path}{hint}", reference.place)]
    )


def parse_setting(setting: str) -> tuple[tuple[str, ...], Node]:
    """The path and the value of a ``key.subkey=value``.

    Raises:
        RecipeError: when it is none.
    """
    key, equals, text = setting.partition("=")
    names = split_key(key)
    if not equals or names is None:
        raise RecipeError([f"--set {setting}: write it as key.subkey=value"])
    return names, read_value(text, f"--set {key}")


def split_key(key: str) -> tuple[str, ...] | None:
    """The names in a path such as ``stages.apo.loss``, ``None`` where one is empty."""
    names = key.split(".")
    return tuple(names) if all(names) else None


def lay_over(node: Node, names: Sequence[str], value: Node, place: Place) -> Node:
    """``value``, given at ``place``, laid over what ``node`` has at the path."""
    for name in reversed(names):
        value = Node({name: value}, place, {name: place})
    return merge(node, value)
