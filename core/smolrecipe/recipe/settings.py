"""``--set a.b.0.c=value``: a path into a recipe, a value, and the one laid over what is at the other.

A path names the keys of mappings and, where it comes to a list, an entry of that by its number, the first by 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import NoReturn

from smolrecipe.errors import Place, Problem
from smolrecipe.recipe.names import key_problem
from smolrecipe.recipe.nodes import Node, merge
from smolrecipe.recipe.read import DEEPEST, read_value
from smolrecipe.recipe.wording import cut, refusal, spelled_out

_LONGEST_ORIGIN = 100


def parse_setting(setting: str) -> tuple[tuple[str, ...], Node]:
    """The path and the value of a ``key.subkey=value``.

    Raises:
        RecipeError: when it is none.
    """
    key, equals, text = setting.partition("=")
    place = Place(f"--set {origin(key)}")
    names = split_key(key)
    if not equals or names is None:
        raise refusal([Problem("write it as key.subkey=value", place)])
    if wrong := path_problem(names):
        raise refusal([Problem(wrong, place)])
    return names, read_value(text, place.file)


def origin(key: str) -> str:
    """How a key given on the command line is shown as the place of what it sets."""
    return spelled_out(cut(key, _LONGEST_ORIGIN)) or "''"


def split_key(key: str) -> tuple[str, ...] | None:
    """The names in a path such as ``stages.apo.loss``, ``None`` where one is empty."""
    names = key.split(".")
    return tuple(names) if all(names) else None


def path_problem(names: Sequence[str]) -> str | None:
    """What is wrong with the path of a value."""
    if len(names) > DEEPEST:
        return f"a path of {len(names):,} keys: no recipe is nested more than {DEEPEST} deep"
    return next(filter(None, map(key_problem, names)), None)


def lay_over(node: Node, names: Sequence[str], value: Node, place: Place) -> Node:
    """``value``, given at ``place``, laid over what ``node`` has at the path; ``null`` takes an entry out of a list.

    Raises:
        RecipeError: when the path comes to a list and names no entry of it.
    """
    return _lay_over(node, names, value, place, ())


def _lay_over(node: Node, names: Sequence[str], value: Node, place: Place, above: Sequence[str]) -> Node:
    """The same for a ``node`` that lies at the path ``above``."""
    keys, listed = _first_list(node, names)
    if listed is not None and len(keys) < len(names):
        value = _with_entry(listed, (*above, *keys), names[len(keys) :], value, place)
        names = keys
    for name in reversed(names):
        value = Node({name: value}, place, {name: place})
    return merge(node, value)


def found(node: Node, names: Sequence[str]) -> Node | None:
    """The value at a path, ``None`` where there is none."""
    for name in names:
        if isinstance(node.value, dict) and name in node.value:
            node = node.value[name]
        elif isinstance(node.value, list) and (number := _number(name)) is not None and number < len(node.value):
            node = node.value[number]
        else:
            return None
    return node


def _first_list(node: Node, names: Sequence[str]) -> tuple[Sequence[str], Node | None]:
    """The first list on a path, and the names that lead to it."""
    for depth, name in enumerate(names):
        if isinstance(node.value, list):
            return names[:depth], node
        if not isinstance(node.value, dict) or name not in node.value:
            break
        node = node.value[name]
    return names, None


def _with_entry(listed: Node, above: Sequence[str], names: Sequence[str], value: Node, place: Place) -> Node:
    """The list at the path ``above`` with ``value`` laid over what it has at ``names``."""
    assert isinstance(listed.value, list)
    entries, name, below = listed.value, names[0], names[1:]
    number = _number(name)
    if number is None or number >= len(entries):
        _refuse_entry(entries, above, name, place)
    if value.value is None and not below:
        return Node([*entries[:number], *entries[number + 1 :]], listed.place)
    laid = _lay_over(entries[number], below, value, place, (*above, name))
    return Node([*entries[:number], laid, *entries[number + 1 :]], listed.place)


def _number(name: str) -> int | None:
    """The number that a name of a path is, ``None`` where it is none or is not written as one would."""
    return int(name) if name.isascii() and name.isdecimal() and (name == "0" or name[0] != "0") else None


def _refuse_entry(entries: Sequence[Node], above: Sequence[str], name: str, place: Place) -> NoReturn:
    """Say which entries a list has, where ``name`` is none of them, and which of them may have been meant."""
    path, last = ".".join(above), len(entries) - 1
    if not entries:
        raise refusal([Problem(f"'{path}' is an empty list: to add to it, give it whole: {path}=[...]", place)])
    used = {str(use.value): number for number, entry in enumerate(entries) if (use := found(entry, ["use"]))}
    if _number(name) is not None:
        words = next((f" (use: {use})" for use, number in used.items() if number == last), "")
        hint = f"; did you mean '{path}.{last}'{words}? To add one, give the whole list: {path}=[...]"
    else:
        meant = next(iter(get_close_matches(name, used, n=1)), None)
        hint = f"; did you mean '{path}.{used[meant]}' (use: {meant})?" if meant else f", such as {path}.{last}"
    count = f"{len(entries)} entries, numbered 0 to {last}" if last else "one entry, number 0"
    raise refusal([Problem(f"'{path}' is a list of {count}, and has no entry '{name}'{hint}", place)])
