"""Types, bounds and defaults of options in the words of somebody who writes a recipe."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import attrs
import yaml
from attrs import frozen

from smolrecipe.components import KINDS, Component
from smolrecipe.options import Model, StageRef, Use, yaml_key
from smolrecipe.recipe.converter import unstructure

_SCALARS: dict[Any, str] = {int: "whole number", float: "number", str: "text", bool: "true or false", Path: "path"}
_BOUNDS = {"at_least": "at least", "more_than": "more than", "at_most": "at most"}


@frozen(kw_only=True)
class OptionRow:
    """One option of a component as a row of its table."""

    key: str
    """As a recipe writes it; dotted in a nested mapping."""
    type_words: str
    default: str
    """As a recipe would write it; empty for a required option."""
    required: bool
    identity: bool
    """Whether the value is part of a stage's digest."""
    doc: str
    source: str


def option_rows(options: type) -> list[OptionRow]:
    """The options of an options class, those of nested classes behind the option that holds them."""
    return list(_rows(options, "", identity=True))


def used_kinds(type_: Any) -> set[type[Component]]:
    """The kinds of component that a value of this type is made of."""
    if get_origin(type_) is Use:
        return set(get_args(type_))
    return {kind for member in get_args(type_) for kind in used_kinds(member)}


def option_types(options: type) -> dict[str, Any]:
    """The options' types by the keys that recipes write, nested ones dotted."""
    found = {}
    for field, type_ in _fields(options):
        found[yaml_key(field.name)] = type_
        nested = _nested(type_)
        if nested is not None:
            found |= {f"{yaml_key(field.name)}.{key}": inner for key, inner in option_types(nested).items()}
    return found


def words_for_type(type_: Any, metadata: Mapping[str, Any] | None = None) -> str:
    """A type in words; ``metadata`` of the option adds the bounds of its numbers and what a stage must produce."""
    metadata = metadata or {}
    origin, arguments = get_origin(type_), get_args(type_)
    if origin in (Union, types.UnionType):
        members = [words_for_type(member, metadata) for member in arguments if member is not type(None)]
        return ", or ".join([*members, *(["null"] if type(None) in arguments else [])])
    if origin is Literal:
        return "one of " + ", ".join(f"`{choice}`" for choice in arguments)
    if origin is Use:
        return f"a {KINDS[arguments[0]]} (`use:`)"
    if origin in (list, tuple, Sequence):
        items = [item for item in arguments if item is not Ellipsis]
        if origin is tuple and Ellipsis not in arguments:
            return f"list of {len(items)}: " + ", ".join(words_for_type(item, metadata) for item in items)
        return f"list, each {_articled(words_for_type(items[0], metadata))}"
    if origin in (dict, Mapping):
        return f"mapping, each value {_articled(words_for_type(arguments[1], metadata))}"
    if type_ is StageRef:
        needs = metadata.get("needs") or ()
        needs = (needs,) if isinstance(needs, str) else needs
        return "a stage" + (f" with {' or '.join(f'`{need}`' for need in needs)}" if needs else "")
    if type_ is Model:
        return "the model: a mapping of model components"
    if attrs.has(type_):
        return "mapping"
    words = _SCALARS.get(type_, getattr(type_, "__name__", str(type_)))
    limits = [f"{_BOUNDS[key]} {metadata[key]:g}" for key in _BOUNDS if metadata.get(key) is not None]
    return f"{words}, {' and '.join(limits)}" if limits and type_ in (int, float) else words


def in_yaml(value: Any) -> str:
    """A structured value on one line, as a recipe may write it."""
    text: str = yaml.safe_dump(
        unstructure(value), default_flow_style=True, sort_keys=False, width=float("inf"), allow_unicode=True
    )
    return text.removesuffix("\n").removesuffix("\n...")


def _fields(options: type) -> Iterator[tuple[Any, Any]]:
    hints = get_type_hints(options)
    for field in attrs.fields(options):
        yield field, hints[field.name]


def _rows(options: type, prefix: str, *, identity: bool) -> Iterator[OptionRow]:
    for field, type_ in _fields(options):
        metadata, nested = field.metadata, _nested(type_)
        counts = identity and metadata.get("identity", True)
        key = prefix + yaml_key(field.name)
        default = _default(field)
        yield OptionRow(
            key=key,
            type_words=words_for_type(type_, metadata),
            default="" if default is attrs.NOTHING or attrs.has(type(default)) else in_yaml(default),
            required=default is attrs.NOTHING,
            identity=counts,
            doc=metadata.get("doc", ""),
            source=metadata.get("source", ""),
        )
        if nested is not None:
            within = f"{key}[]." if get_origin(type_) in (list, tuple, Sequence) else f"{key}."
            yield from _rows(nested, within, identity=counts)


def _nested(type_: Any) -> type | None:
    """The options class whose fields a value of this type has, itself or in a list."""
    if get_origin(type_) is Use or type_ in (StageRef, Model):
        return None
    if isinstance(type_, type) and attrs.has(type_):
        return type_
    found = [nested for member in get_args(type_) if (nested := _nested(member)) is not None]
    return found[0] if found else None


def _default(field: Any) -> Any:
    if isinstance(field.default, attrs.Factory):  # type: ignore[arg-type]
        return field.default.factory()
    return field.default


def _articled(words: str) -> str:
    return words if words.startswith(("a ", "the ", "one of", "true")) else f"a {words}"
