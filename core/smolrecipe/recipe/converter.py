"""The cattrs converter: plain recipe data to options classes, strictly, and back.

cattrs alone turns ``'false'`` into ``True``, ``1.5`` into ``1`` and ``'abc'`` into a tuple. Here a value has the type
that its option declares or it is refused; the only widening is from a whole number to a float.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import attrs
from cattrs import ClassValidationError, Converter, IterableValidationError, IterableValidationNote
from cattrs.gen import make_dict_structure_fn, override

from smolrecipe.catalog import Catalog
from smolrecipe.components import KINDS, Component, ModelComponent
from smolrecipe.errors import near_miss
from smolrecipe.options import Model, StageRef, Use, yaml_key
from smolrecipe.recipe.nodes import PlacedText
from smolrecipe.recipe.outside import is_folder, is_outside
from smolrecipe.recipe.paths import located
from smolrecipe.recipe.wording import cut

OWNER = "smolrecipe_owner"
"""Attribute of a validation error that names the component whose options it is about."""


_LONGEST_TEXT = 100
"""Characters of a value that a message quotes."""

_SEQUENCES: tuple[Any, ...] = (list, tuple, Sequence)
_MAPPINGS: tuple[Any, ...] = (dict, Mapping)


class WrongValueError(ValueError):
    """A value that its option does not take. The message continues a sentence that starts with the option's name.

    ``wanted`` says what it takes, where no more than that is wrong.
    """

    def __init__(self, message: str, wanted: str = "") -> None:
        super().__init__(message)
        self.wanted = wanted


def _not_wanted(wanted: str, value: Any, hint: str = "") -> WrongValueError:
    return WrongValueError(f"must be {wanted}, not {describe(value)}{hint}", wanted)


def describe(value: Any) -> str:
    """A recipe value as a person would name it."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text {cut(str(value), _LONGEST_TEXT)!r}"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    return "a mapping" if isinstance(value, Mapping) else "a list"


def make_converter(
    catalog: Catalog,
    outside: Callable[[str], str] | None = None,
    artifacts: Mapping[str, Path] | None = None,
) -> Converter:
    """A converter whose ``Use`` fields are looked up in ``catalog``.

    ``outside(reference)`` names the stage that brings in a model from outside the recipe, where a recipe may refer to
    one; a folder in ``reference`` is absolute. ``artifacts`` are the folders of stages that are named, see
    ``StageRef.root``.
    """
    converter = Converter(forbid_extra_keys=True, detailed_validation=True)
    for type_, accepts, name in (
        (bool, lambda value: isinstance(value, bool), "true or false"),
        (int, lambda value: isinstance(value, int) and not isinstance(value, bool), "a whole number"),
        (float, lambda value: isinstance(value, (int, float)) and not isinstance(value, bool), "a number"),
        (str, lambda value: isinstance(value, str), "text"),
    ):
        converter.register_structure_hook(type_, _scalar(type_, accepts, name))
    converter.register_structure_hook(Path, _path)
    converter.register_structure_hook(StageRef, lambda value, _: _stage_ref(value, outside, artifacts or {}))
    converter.register_structure_hook_factory(_is_union, lambda type_: _union(type_, converter))
    converter.register_structure_hook_factory(_is_literal, _literal)
    converter.register_structure_hook_factory(attrs.has, lambda cls: _options(cls, converter))
    converter.register_structure_hook_factory(
        lambda type_: get_origin(type_) in _SEQUENCES, lambda type_: _sequence(type_, converter)
    )
    converter.register_structure_hook_factory(
        lambda type_: get_origin(type_) in _MAPPINGS, lambda type_: _mapping(type_, converter)
    )
    converter.register_structure_hook(Model, lambda value, _: _model(value, converter))
    converter.register_structure_hook_factory(_is_use, lambda type_: _use(type_, catalog, converter))
    return converter


def _scalar(type_: type, accepts: Callable[[Any], bool], name: str) -> Callable[[Any, Any], Any]:
    def structure(value: Any, _: Any) -> Any:
        if not accepts(value):
            quote = " (put it in quotes)" if type_ is str and isinstance(value, (int, float)) else ""
            raise _not_wanted(name, value, quote)
        return type_(value)

    return structure


def _path(value: Any, _: Any) -> Path:
    if not isinstance(value, str) or not value:
        raise _not_wanted("a path", value)
    try:
        return located(value, value.place.folder if isinstance(value, PlacedText) else Path()).absolute()
    except ValueError as error:
        raise WrongValueError(str(error)) from None


def _stage_ref(value: Any, outside: Callable[[str], str] | None, artifacts: Mapping[str, Path]) -> StageRef:
    if not isinstance(value, str) or not value:
        raise _not_wanted("the name of a stage", value)
    if outside is None or not is_outside(value):
        ref = StageRef.parse(value)
        return attrs.evolve(ref, root=artifacts.get(ref.stage))
    return StageRef(outside(str(_path(value, Path)) if is_folder(value) else str(value)))


def _is_union(type_: Any) -> bool:
    return get_origin(type_) in (Union, types.UnionType)


def _union(type_: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    optional = type(None) in get_args(type_)
    members = [member for member in get_args(type_) if member is not type(None)]

    def structure(value: Any, _: Any) -> Any:
        if value is None and optional:
            return None
        refusals: list[WrongValueError] = []
        for member in members:
            try:
                return converter.structure(value, member)
            except WrongValueError as error:
                if len(members) == 1:
                    raise
                refusals.append(error)
        wanted = [refusal.wanted for refusal in refusals]
        if all(wanted):
            raise _not_wanted(f"{', '.join(wanted[:-1])} or {wanted[-1]}", value)
        raise WrongValueError(" and ".join(str(refusal) for refusal in refusals))

    return structure


def _is_literal(type_: Any) -> bool:
    return get_origin(type_) is Literal


def _literal(type_: Any) -> Callable[[Any, Any], Any]:
    choices = get_args(type_)

    def structure(value: Any, _: Any) -> Any:
        for choice in choices:
            if value == choice and type(choice) is (str if isinstance(value, str) else type(value)):
                return choice
        hint = near_miss(value, [str(choice) for choice in choices]) if isinstance(value, str) else ""
        raise _not_wanted(f"one of {', '.join(map(str, choices))}", value, hint)

    return structure


def _options(cls: type, converter: Converter) -> Callable[[Any, Any], Any]:
    renames = {
        field.name: override(rename=yaml_key(field.name))
        for field in attrs.fields(cls)
        if yaml_key(field.name) != field.name
    }
    generated: Callable[[Any, Any], Any] = make_dict_structure_fn(cls, converter, **renames)  # type: ignore[arg-type]

    def structure(value: Any, type_: Any) -> Any:
        if not isinstance(value, dict):
            raise _not_wanted("a mapping", value)
        return generated(value, type_)

    return structure


def _sequence(type_: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    origin, (item_type, *more) = get_origin(type_), get_args(type_)
    fixed = origin is tuple and more != [Ellipsis]

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, list):
            raise _not_wanted("a list", value)
        item_types = (item_type, *more) if fixed else (item_type,) * len(value)
        if len(item_types) != len(value):
            raise WrongValueError(f"must be a list of {len(item_types)}, not of {len(value)}")
        pairs = [
            (index, item, item_type) for index, (item, item_type) in enumerate(zip(value, item_types, strict=True))
        ]
        items = _structure_each(pairs, type_, converter)
        return tuple(items) if origin is tuple else items

    return structure


def _mapping(type_: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    _, item_type = get_args(type_)

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, dict):
            raise _not_wanted("a mapping", value)
        items = _structure_each([(key, item, item_type) for key, item in value.items()], type_, converter)
        return dict(zip(value, items, strict=True))

    return structure


def _structure_each(pairs: Sequence[tuple[int | str, Any, Any]], type_: Any, converter: Converter) -> list[Any]:
    """Structure every item and report what is wrong with all of them, as cattrs does for containers."""
    items, errors = [], []
    for index, item, item_type in pairs:
        try:
            items.append(converter.structure(item, item_type))
        except Exception as error:
            note = IterableValidationNote(f"structuring {type_} at {index!r}", index, item_type)
            error.__notes__ = [*getattr(error, "__notes__", []), note]
            errors.append(error)
    if errors:
        raise IterableValidationError(f"while structuring {type_}", errors, type_)
    return items


def _is_use(type_: Any) -> bool:
    return type_ is Use or get_origin(type_) is Use


def _use(type_: Any, catalog: Catalog, converter: Converter) -> Callable[[Any, Any], Any]:
    (kind,) = get_args(type_)

    def structure(value: Any, _: Any) -> Use[Component]:
        if not isinstance(value, dict):
            raise _not_wanted(f"a mapping with 'use: <{KINDS[kind]}>'", value)
        name = value.get("use")
        if not isinstance(name, str):
            raise WrongValueError(f"lacks 'use: <{KINDS[kind]}>'; known: {', '.join(catalog.names(kind)) or 'none'}")
        component = catalog.get(kind, name)
        rest = {key: item for key, item in value.items() if key != "use"}
        try:
            return Use(component, converter.structure(rest, component.options))
        except ClassValidationError as error:
            error.__dict__[OWNER] = f"{KINDS[kind]} '{name}'"
            raise

    return structure


def _model(value: Any, converter: Converter) -> Model:
    return Model(converter.structure(value, dict[str, Use[ModelComponent]]))


def unstructure(
    value: Any,
    keep: Callable[[Mapping[str, Any]], bool] = lambda metadata: True,
    path_text: Callable[[Path], str] = str,
) -> Any:
    """A structured value as plain JSON data that structures to the same value again.

    ``keep`` decides by an option's metadata whether it stays, ``path_text`` how a path is written.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, Use):
            return {"use": value.component.name, **plain(value.options)}
        if isinstance(value, Model):
            return {name: plain(use) for name, use in value.components.items()}
        if isinstance(value, StageRef):
            return str(value)
        if isinstance(value, Path):
            return path_text(value)
        if attrs.has(type(value)):
            return {
                yaml_key(field.name): plain(getattr(value, field.name))
                for field in attrs.fields(type(value))
                if keep(field.metadata)
            }
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return value

    return plain(value)
