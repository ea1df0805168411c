"""Composing a recipe: ``extends:`` in any mapping, and ``--set a.b.c=value`` over all.

``extends: file`` loads a file under the mapping: one beside the file that says so or, where there is none, a recipe
that ships with smolrecipe, by its name. ``extends: null`` says that the mapping stands alone and replaces what it would
inherit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attrs import define

from smolrecipe.errors import Place, Problem, near_miss
from smolrecipe.recipe.nodes import Node, merge, size
from smolrecipe.recipe.paths import located, no_file
from smolrecipe.recipe.read import DEEPEST, MOST_VALUES, read_file
from smolrecipe.recipe.settings import lay_over, parse_setting
from smolrecipe.recipe.shipped import shipped_recipe, shipped_recipes
from smolrecipe.recipe.wording import refusal

EXTENDS = "extends"
_MOST_FILES = 1000
_LONGEST_CHAIN = 20
"""Files of which each extends the next."""


def compose(path: Path, settings: Sequence[str] = ()) -> Node:
    """The recipe in ``path`` with every ``extends:`` resolved and the ``key=value`` settings laid over it.

    Raises:
        RecipeError: for a file that cannot be read, a cycle of files, or a setting that cannot be parsed.
    """
    node = _Composer().load(path, (), None, 0)
    for names, value in map(parse_setting, settings):
        node = lay_over(node, names, value, value.place)
    return node


@define
class _Composer:
    """Loads files and what they extend, as far as it stays a recipe: files can multiply what they extend."""

    files: int = 0
    values: int = 0

    def load(self, path: Path, chain: tuple[Path, ...], asked_at: Place | None, depth: int) -> Node:
        resolved = path.resolve()
        if resolved in chain:
            cycle = " -> ".join(file.name for file in (*chain[chain.index(resolved) :], resolved))
            raise refusal([Problem(f"'extends:' goes round in a circle: {cycle}", asked_at)])
        if len(chain) > _LONGEST_CHAIN:
            raise refusal([Problem(f"a chain of more than {_LONGEST_CHAIN} files that extend each other", asked_at)])
        node = read_file(path, asked_at)
        self.files += 1
        self.values += size(node)
        if self.files > _MOST_FILES or self.values > MOST_VALUES:
            what = f"with this, 'extends:' brings in more than {_MOST_FILES:,} files or {MOST_VALUES:,} values"
            raise refusal([Problem(f"{what}, which no recipe has", asked_at)])
        return self.resolve(node, (*chain, resolved), depth)

    def resolve(self, node: Node, chain: tuple[Path, ...], depth: int) -> Node:
        """The node with every ``extends:`` in it resolved."""
        if depth > DEEPEST:
            raise refusal([Problem(f"nested more than {DEEPEST} deep, with what is extended", node.place)])
        if isinstance(node.value, list):
            return Node([self.resolve(child, chain, depth + 1) for child in node.value], node.place)
        if not isinstance(node.value, dict):
            return node
        children = {key: self.resolve(child, chain, depth + 1) for key, child in node.value.items() if key != EXTENDS}
        own = Node(children, node.place, node.key_places)
        extends = node.value.get(EXTENDS)
        if extends is None:
            return own
        if extends.value is None:
            return Node(children, node.place, node.key_places, replaces=True)
        references = extends.value if isinstance(extends.value, list) else [extends]
        base: Node | None = None
        for reference in references:
            loaded = self.load(_file(reference), chain, reference.place, depth)
            base = loaded if base is None else merge(base, loaded)
        return own if base is None else merge(base, own)


def _file(reference: Node) -> Path:
    name = reference.value
    if not isinstance(name, str) or not name:
        raise refusal([Problem("'extends' names a file, or a list of files", reference.place)])
    try:
        path = located(name, reference.place.folder)
    except ValueError as error:
        raise refusal([Problem(f"'extends' {error}", reference.place)]) from None
    lacking = no_file(path)
    if lacking is None:
        return path
    shipped = shipped_recipe(name)
    if shipped is not None:
        return shipped
    hint = near_miss(name, shipped_recipes())
    raise refusal([Problem(f"'extends' names '{name}', but {lacking}{hint}", reference.place)])
