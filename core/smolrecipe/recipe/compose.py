"""Composing a recipe: ``extends:`` in any mapping, and ``--set a.b.c=value`` over all.

``extends: file`` loads a file under the mapping; ``extends: null`` says that the mapping stands alone and replaces what
it would inherit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from smolrecipe.errors import Place, Problem, RecipeError
from smolrecipe.recipe.nodes import Node, merge
from smolrecipe.recipe.read import read_file, read_value

EXTENDS = "extends"


def compose(path: Path, settings: Sequence[str] = ()) -> Node:
    """The recipe in ``path`` with every ``extends:`` resolved and the ``key=value`` settings laid over it.

    Raises:
        RecipeError: for a file that cannot be read, a cycle of files, or a setting that cannot be parsed.
    """
    node = _load(path, ())
    for setting in settings:
        node = merge(node, _setting(setting))
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
    if not path.is_file():
        raise RecipeError(
            [Problem(f"'extends' names '{reference.value}', but there is no file {path}", reference.place)]
        )
    return path


def _setting(setting: str) -> Node:
    key, equals, text = setting.partition("=")
    names = key.split(".")
    if not equals or not all(names):
        raise RecipeError([f"--set {setting}: write it as key.subkey=value"])
    origin = f"--set {key}"
    node = read_value(text, origin)
    for name in reversed(names):
        node = Node({name: node}, Place(origin), {name: Place(origin)})
    return node
