"""Reading YAML strictly: positions kept, duplicate keys refused, numbers as people write them, nothing constructed.

Scalars follow the YAML 1.2 core schema: ``1e-6`` and ``5e-4`` are numbers, ``yes`` and ``on`` are text. Underscores in
numbers (``4_720_000``) are allowed. Anchors, aliases, merge keys and tags are refused: ``extends:`` does that work.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from smolrecipe.errors import Place, Problem, RecipeError
from smolrecipe.recipe.nodes import Node, Scalar

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_INT = re.compile(r"[-+]?(0|[1-9][0-9_]*)$")
_FLOAT = re.compile(r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)([eE][-+]?[0-9]+)?$")
_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", "+.inf"), float("inf")),
    "-.inf": float("-inf"),
}
_STANDARD_TAGS = {f"tag:yaml.org,2002:{name}" for name in (
    "str", "int", "float", "bool", "null", "map", "seq", "timestamp", "merge", "value"
)}  # fmt: skip
_DEEPEST = 64
_LARGEST_BYTES = 16 * 2**20


def read_file(path: Path) -> Node:
    """The content of a recipe file.

    Raises:
        RecipeError: with every problem of the file that can be told at once.
    """
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise RecipeError([f"{path}: larger than {_LARGEST_BYTES >> 20} MiB, which no recipe is"])
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError([f"{path}: no such file"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError([f"{path}: cannot be read ({error})"]) from None
    return read_text(text, str(path))


def read_text(text: str, file: str) -> Node:
    """The content of a recipe text, as if it stood in ``file``."""
    start = Place(file, 1, 1)
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(file, mark.line + 1, mark.column + 1) if mark else start
        raise RecipeError([Problem(f"not valid YAML: {error.problem or error.context}", place)]) from None
    except yaml.YAMLError as error:
        raise RecipeError([Problem(f"not valid YAML: {str(error).splitlines()[0]}", start)]) from None
    except RecursionError:
        raise RecipeError([Problem(f"nested more than {_DEEPEST} deep", start)]) from None
    if root is None:
        raise RecipeError([Problem("the file is empty", start)])
    reader = _Reader(file)
    node = reader.node(root, 0)
    if reader.problems:
        raise RecipeError(reader.problems)
    return node


def read_value(text: str, origin: str) -> Node:
    """A value given outside a file (``--set key=value``), read by the same rules; ``origin`` becomes its place."""
    node = read_text(text if text.strip() else "null", origin)
    return replace_places(node, Place(origin))


def replace_places(node: Node, place: Place) -> Node:
    """The node with one place for all that is in it."""
    if isinstance(node.value, dict):
        children = {key: replace_places(child, place) for key, child in node.value.items()}
        return Node(children, place, dict.fromkeys(children, place))
    if isinstance(node.value, list):
        return Node([replace_places(child, place) for child in node.value], place)
    return Node(node.value, place)


class _Reader:
    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.seen: set[int] = set()

    def node(self, node: yaml.Node, depth: int) -> Node:
        place = self.place(node)
        if id(node) in self.seen:
            self.problem("anchors and aliases are not supported: put what is shared in a file and use 'extends:'", node)
            return Node(None, place)
        self.seen.add(id(node))
        if depth > _DEEPEST:
            self.problem(f"nested more than {_DEEPEST} deep", node)
            return Node(None, place)
        if node.tag not in _STANDARD_TAGS:
            self.problem(f"tag '{node.tag}' is not supported: a recipe holds plain values only", node)
            return Node(None, place)
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, depth)
        if isinstance(node, yaml.SequenceNode):
            return Node([self.node(child, depth + 1) for child in node.value], place)
        assert isinstance(node, yaml.ScalarNode)
        assert isinstance(node, yaml.ScalarNode)
        return Node(self.scalar(node), place)

    def mapping(self, node: yaml.MappingNode, depth: int) -> Node:
        children: dict[str, Node] = {}
        key_places: dict[str, Place] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.problem("a key must be plain text", key_node)
                continue
            key = str(key_node.value)
            if key == "<<" and not key_node.style:
                self.problem("merge keys ('<<') are not supported: use 'extends:'", key_node)
                continue
            if key in children:
                self.problem(f"duplicate key '{key}', first given on line {key_places[key].line}", key_node)
                continue
            key_places[key] = self.place(key_node)
            children[key] = self.node(value_node, depth + 1)
        return Node(children, self.place(node), key_places)

    def scalar(self, node: yaml.ScalarNode) -> Scalar:
        text = str(node.value)
        if node.style:
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INT.match(text) and not text.endswith("_"):
            return int(text)
        if _FLOAT.match(text) and not text.endswith("_"):
            return float(text)
        return text

    def place(self, node: yaml.Node) -> Place:
        return Place(self.file, node.start_mark.line + 1, node.start_mark.column + 1)

    def problem(self, message: str, node: yaml.Node) -> None:
        self.problems.append(Problem(message, self.place(node)))
