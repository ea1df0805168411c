"""Reading YAML strictly: positions kept, duplicate keys refused, numbers as people write them, nothing constructed.

Scalars follow the YAML 1.2 core schema, without infinity: ``1e-6`` and ``5e-4`` are numbers, ``yes``, ``on`` and
``012`` are text. Underscores in numbers (``4_720_000``) are allowed. Anchors, aliases, merge keys and tags are refused:
``extends:`` does that work. So is what reads as something else than it looks: characters that are not seen, numbers
that no machine holds, keys that could be taken for others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml

from smolrecipe.errors import Place, Problem
from smolrecipe.recipe.names import key_problem
from smolrecipe.recipe.nodes import Node, Scalar
from smolrecipe.recipe.paths import no_file
from smolrecipe.recipe.syntax import syntax_problem
from smolrecipe.recipe.wording import MOST_PROBLEMS, character_name, cut, refusal
from smolrecipe.strict_json import read_bytes

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_DIGITS = r"(0|[1-9][0-9]*)(_[0-9]+)*"
_INT = re.compile(rf"[-+]?{_DIGITS}")
_FLOAT = re.compile(rf"[-+]?({_DIGITS}(\.([0-9]+(_[0-9]+)*)?)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_UNSEEN = re.compile(
    "[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]"
)
"""Control characters, line ends that no editor shows as such, and those that turn the direction of what is shown."""

DEEPEST = 64
MOST_VALUES = 50_000
"""In a recipe, with all that it extends: SmolLM3's has 1,300, and two thousand sources with their weights 20,000."""
_LARGEST_BYTES = 16 * 2**20
_LONGEST_TEXT = 2**16
_SMALLEST_INT, _LARGEST_INT = -(2**63), 2**64 - 1
_MOST_DIGITS = 40


def read_file(path: Path, asked_at: Place | None = None) -> Node:
    """The content of a recipe file, which ``extends:`` at ``asked_at`` may have asked for.

    Raises:
        RecipeError: with every problem of the file that can be told at once.
    """
    asked_at = asked_at or Place(str(path), 1, 1)
    if lacking := no_file(path):
        raise refusal([Problem(lacking, asked_at)])
    try:
        content = read_bytes(path, most_bytes=_LARGEST_BYTES)
    except (OSError, ValueError) as error:
        raise refusal([Problem(str(error), asked_at)]) from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = _place_in(content[: error.start].decode("utf-8", errors="replace"), str(path))
        kind = " (it looks like UTF-16)" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise refusal([Problem(f"no UTF-8 text begins with this byte{kind}: save the file as UTF-8", place)]) from None
    return read_text(text, str(path))


def read_text(text: str, file: str) -> Node:
    """The content of a recipe text, as if it stood in ``file``.

    Raises:
        RecipeError: with every problem of it that can be told at once.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    unseen = _UNSEEN.search(text)
    if unseen is not None:
        what = f"here is {character_name(unseen.group())}, which is not seen: take it out"
        raise refusal([Problem(what, _place_in(text[: unseen.start()], file))])
    return _Reader(file).read(text)


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


def _place_in(before: str, file: str) -> Place:
    """The place of what comes after a text."""
    return Place(file, before.count("\n") + 1, len(before) - before.rfind("\n"))


class _Reader:
    """Makes nodes of YAML's events, of which no more is held than of the recipe itself, whatever it is."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.values = 0
        self.anchors: set[str] = set()
        self.events: Iterator[Any] = iter(())

    def read(self, text: str) -> Node:
        self.events = yaml.parse(text, Loader=_Loader)
        try:
            node = self.document()
        except yaml.MarkedYAMLError as error:
            raise refusal([*self.problems, syntax_problem(error, text, self.file)]) from None
        except yaml.YAMLError as error:
            self.stop(f"not valid YAML: {str(error).splitlines()[0]}", None)
        if self.problems:
            raise refusal(self.problems)
        return node

    def document(self) -> Node:
        """The one document that there is."""
        next(self.events)  # the beginning of the stream
        if isinstance(next(self.events), yaml.StreamEndEvent):
            self.stop("the file is empty", None)
        node = self.node(next(self.events), 0)
        next(self.events)  # the document's end
        after = next(self.events)
        if isinstance(after, yaml.DocumentStartEvent):
            self.problem("a second document begins here, and a recipe is one: take the '---' out", after.start_mark)
        return node

    def node(self, event: Any, depth: int) -> Node:
        place = self.place(event.start_mark)
        self.values += 1
        if self.values > MOST_VALUES:
            self.stop(f"more than {MOST_VALUES:,} values, which no recipe has", event.start_mark)
        if depth > DEEPEST:
            self.stop(f"nested more than {DEEPEST} deep, which no recipe is", event.start_mark)
        if not self.is_plain(event) and isinstance(event, yaml.AliasEvent):
            return Node(None, place)
        if isinstance(event, yaml.MappingStartEvent):
            return self.mapping(place, depth)
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
                items.append(self.node(event, depth + 1))
            return Node(items, place)
        return Node(self.scalar(event), place)

    def is_plain(self, event: Any) -> bool:
        """Whether a value is what stands there; anchors, aliases and tags are told."""
        anchor, tag = event.anchor, getattr(event, "tag", None)
        if anchor is not None and anchor not in self.anchors:
            self.problem(
                "anchors and aliases are not supported: put what is shared in a file and use 'extends:' "
                "(a text that begins with '&' or '*' goes in quotes)",
                event.start_mark,
            )
            self.anchors.add(anchor)
        if tag is not None:
            self.problem(
                f"tag '{cut(tag, 60)}' is not supported: a recipe holds plain values only (a text that begins with '!' "
                "goes in quotes)",
                event.start_mark,
            )
        return anchor is None and tag is None

    def mapping(self, place: Place, depth: int) -> Node:
        children: dict[str, Node] = {}
        key_places: dict[str, Place] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self.key(event, depth, key_places)
            value = self.node(next(self.events), depth + 1)
            if key is not None:
                children[key] = value
                key_places[key] = self.place(event.start_mark)
        return Node(children, place, key_places)

    def key(self, event: Any, depth: int, before: dict[str, Place]) -> str | None:
        """A key of a mapping, ``None`` where it is none, which is told."""
        if not isinstance(event, yaml.ScalarEvent):
            self.problem("a key must be plain text", event.start_mark)
            self.node(event, depth + 1)
            return None
        key = str(event.value)
        if not self.is_plain(event):
            return None
        if key == "<<" and not event.style:
            self.problem("merge keys ('<<') are not supported: use 'extends:'", event.start_mark)
        elif key in before:
            self.problem(f"duplicate key '{key}', first given on line {before[key].line}", event.start_mark)
        elif wrong := key_problem(key):
            self.problem(wrong, event.start_mark)
        else:
            return key
        return None

    def scalar(self, event: Any) -> Scalar:
        text = str(event.value)
        if len(text) > _LONGEST_TEXT:
            what = f"a text of {len(text):,} characters, and {_LONGEST_TEXT:,} are the most: put it in a file"
            self.problem(what, event.start_mark)
        elif event.style:
            return text
        elif text in _WORDS:
            return _WORDS[text]
        elif _INT.fullmatch(text):
            return self.whole_number(text, event)
        elif _FLOAT.fullmatch(text):
            return self.number(text, event)
        return text

    def whole_number(self, text: str, event: Any) -> int:
        number = int(text) if len(text) <= _MOST_DIGITS else _LARGEST_INT + 1
        if not _SMALLEST_INT <= number <= _LARGEST_INT:
            what = f"the whole number {cut(text, 30)} does not fit into 64 bits; if it is a text, put it in quotes"
            self.problem(what, event.start_mark)
        return number

    def number(self, text: str, event: Any) -> float:
        number = float(text)
        mantissa = text.lower().partition("e")[0]
        if abs(number) == float("inf"):
            self.problem(f"the number {cut(text, 30)} is larger than a machine's can be", event.start_mark)
        elif not number and set(mantissa) & set("123456789"):
            self.problem(f"the number {cut(text, 30)} is so small that it would count as 0", event.start_mark)
        return number + 0.0  # -0.0 is 0.0: no recipe means a difference

    def place(self, mark: Any) -> Place:
        return Place(self.file, mark.line + 1, mark.column + 1)

    def problem(self, message: str, mark: Any) -> None:
        self.problems.append(Problem(message, self.place(mark) if mark else Place(self.file, 1, 1)))
        if len(self.problems) > MOST_PROBLEMS:
            raise refusal(self.problems)

    def stop(self, message: str, mark: Any) -> NoReturn:
        """Say what makes reading on useless, with what was found before."""
        self.problems.append(Problem(message, self.place(mark) if mark else Place(self.file, 1, 1)))
        raise refusal(self.problems)
