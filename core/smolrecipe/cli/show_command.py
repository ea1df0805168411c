"""``smolrecipe show``: a recipe as it is after all that it extends."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import click

from smolrecipe.cli.session import Session, json_option, recipe_arguments
from smolrecipe.options import Model, Use, yaml_key
from smolrecipe.recipe.converter import unstructure
from smolrecipe.recipe.recipe import Recipe
from smolrecipe.recipe.structure import iterate_uses


@click.command(
    epilog="\b\nExamples:\n  smolrecipe show recipes/mine.yaml       what it says, with what it extends\n"
    "  smolrecipe show smollm3 --resolved      defaults too, each with its origin"
)
@recipe_arguments
@click.option("--resolved", is_flag=True, help="Show every value, defaults included, with its origin.")
@json_option
@click.pass_obj
def show(session: Session, recipe: str, settings: tuple[str, ...], resolved: bool, as_json: bool) -> None:
    """Show a recipe after 'extends' and overrides."""
    structured = session.recipe(recipe, settings)
    values = {path: (value, origin) for path, value, origin in _values(structured) if resolved or origin != "default"}
    if as_json:
        flat = {
            ".".join(map(str, path)): {"value": value, "origin": origin} for path, (value, origin) in values.items()
        }
        click.echo(json.dumps(flat, indent=2, ensure_ascii=False))
        return
    lines = list(_yaml_lines(values))
    width = min(72, max((len(text) for text, _ in lines), default=0))
    for text, origin in lines:
        click.echo(f"{text:<{width}}  # {origin}" if origin and resolved else text)


def _values(recipe: Recipe) -> Iterator[tuple[tuple[str | int, ...], Any, str]]:
    """Every leaf of the recipe: path, plain value, and where it was written ("default" where it was not)."""

    def origin(path: tuple[str | int, ...]) -> str:
        return str(recipe.places[path]) if path in recipe.places else "default"

    for key in ("name", "description", "try_instead"):
        yield (key,), getattr(recipe, key), origin((key,))
    for path, use in iterate_uses(recipe):
        for leaf_path, value in _leaves(use, path):
            yield leaf_path, value, origin(leaf_path)


def _leaves(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    if isinstance(value, Use):
        yield (*path, "use"), value.name
        for field in attrs.fields(type(value.options)):
            yield from _leaves(getattr(value.options, field.name), (*path, yaml_key(field.name)))
    elif isinstance(value, Model):
        for name, use in value.components.items():
            yield from _leaves(use, (*path, name))
    elif isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    elif isinstance(value, (list, tuple)) and any(attrs.has(type(item)) for item in value):
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, index))
    elif attrs.has(type(value)) and isinstance(unstructure(value), dict):
        for field in attrs.fields(type(value)):
            yield from _leaves(getattr(value, field.name), (*path, yaml_key(field.name)))
    else:
        yield path, unstructure(value)


def _yaml_lines(values: Mapping[tuple[str | int, ...], tuple[Any, str]]) -> Iterator[tuple[str, str]]:
    """The values as lines of YAML with the origin of each, headings first."""
    shown: tuple[str | int, ...] = ()
    for path, (value, origin) in values.items():
        common = 0
        while common < len(path) - 1 and common < len(shown) and path[common] == shown[common]:
            common += 1
        for depth in range(common, len(path) - 1):
            yield f"{'  ' * depth}{_key(path[depth])}:", ""
        shown = path[:-1]
        yield f"{'  ' * (len(path) - 1)}{_key(path[-1])}: {_value(value)}", origin


def _value(value: Any) -> str:
    """The value as YAML reads it, with an escape for what is not seen."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value)


def _key(key: str | int) -> str:
    return f"[{key}]" if isinstance(key, int) else str(key)
