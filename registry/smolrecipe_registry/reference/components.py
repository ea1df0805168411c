"""A page for each kind of component, with a section for each that is offered: options, needs, products, functions."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import attrs
import yaml

from smolrecipe.catalog import Catalog, Provider
from smolrecipe.components import (
    Component,
    Generator,
    Launcher,
    Loss,
    ModelComponent,
    Optimizer,
    Packer,
    RowFilter,
    Schedule,
    Source,
    StageKind,
    Tracker,
)
from smolrecipe.recipe.converter import make_converter
from smolrecipe_registry.reference.descriptors import contract_names
from smolrecipe_registry.reference.prose import call, docstring, inline, markdown, table
from smolrecipe_registry.reference.words import OptionRow, option_rows, option_types, used_kinds

FILES: dict[type[Component], str] = {
    StageKind: "stage-kinds",
    ModelComponent: "model-components",
    Optimizer: "optimizers",
    Schedule: "schedules",
    Loss: "losses",
    Source: "sources",
    Packer: "packers",
    Generator: "generators",
    RowFilter: "filters",
    Tracker: "trackers",
    Launcher: "launchers",
}
"""The name of each kind's page."""

HOOKS: dict[type[Component], str] = {
    kind: f"smolrecipe_{'stages' if kind is StageKind else name.replace('-', '_')}" for kind, name in FILES.items()
}
"""The hook that offers each kind."""

_AT_THE_TOP: dict[type[Component], str] = {
    StageKind: "each stage under `stages:`",
    ModelComponent: "each entry under `model:`, of the recipe or of a stage",
    Tracker: "each entry of `trackers:` at the top of a recipe",
    Launcher: "`launcher:` at the top of a recipe",
}

_FUNCTIONS: dict[type[Component], tuple[str, ...]] = {
    StageKind: ("run", "verify", "dry_run"),
    ModelComponent: ("apply", "to_hf", "from_hf", "check_draft"),
    Optimizer: ("factory", "groups"),
    Schedule: ("factor",),
    Loss: ("loss",),
    Source: ("read", "fingerprint"),
    Packer: ("open", "verify"),
    Generator: ("open",),
    RowFilter: ("open",),
    Tracker: ("open",),
    Launcher: ("capacity", "command", "environment"),
}
"""The functions of each descriptor whose docstrings say what a component does, with shapes, units and errors."""


def title(kind: type[Component]) -> str:
    """What the kind's page is called."""
    return FILES[kind].replace("-", " ").capitalize()


def kind_page(kind: type[Component], catalog: Catalog, *, descriptors: str, hooks: str) -> str:
    """The page of one kind. ``descriptors`` and ``hooks`` are the addresses of the other pages."""
    offered = [(component, provider) for component, provider in catalog if type(component) is kind]
    listed = [
        [f"[`{component.name}`](#{component.name})", inline(component.summary), f"`{provider.plugin}`"]
        for component, provider in offered
    ]
    parts = [
        f"# {title(kind)}",
        markdown(docstring(kind)),
        f"Its contract, field by field: [`{kind.__name__}`]({descriptors}#{kind.__name__.lower()}). "
        f"A plugin offers one with [`{HOOKS[kind]}`]({hooks}/{HOOKS[kind]}.md).",
        f"Recipes name one with `use:` in {'; '.join(places_in_recipes(kind, catalog)) or 'no option installed'}.",
        table(["`use:`", "what it is", "plugin"], listed) if listed else "No plugin offers one.",
        *(section(component, provider, catalog) for component, provider in offered),
    ]
    return "\n\n".join(parts) + "\n"


def places_in_recipes(kind: type[Component], catalog: Catalog) -> list[str]:
    """Where a recipe names components of that kind, by what the installed components' options take."""
    places = [_AT_THE_TOP[kind]] if kind in _AT_THE_TOP else []
    for component, _ in catalog:
        for key, type_ in option_types(component.options).items():
            if kind in used_kinds(type_):
                places.append(f"`{key}` of `{component.name}`")
    return places


def section(component: Component, provider: Provider, catalog: Catalog, *, level: int = 2) -> str:
    """Everything about one component."""
    heading = "#" * level
    parts = [
        f"{heading} `{component.name}`",
        inline(component.summary[:1].upper() + component.summary[1:]) + ".",
        "\n".join(f"- {name}: {fact}" for name, fact in _facts(component, provider, catalog)),
    ]
    rows = option_rows(component.options)
    if rows:
        parts.append(f"{heading}# Options")
        if own := docstring(component.options):
            parts.append(markdown(own))
        parts.append(_option_table(rows, in_digests=not isinstance(component, (Tracker, Launcher))))
    else:
        parts.append("It has no options.")
    if component.example or not any(row.required for row in rows):
        written = yaml.safe_dump(
            {"use": component.name, **_plain(component.example)}, sort_keys=False, width=100, allow_unicode=True
        )
        parts.append(f"{heading}# Example\n\n```yaml\n{written}```")
    functions = list(_functions(component, heading))
    return "\n\n".join([*parts, *functions])


def _option_table(rows: list[OptionRow], *, in_digests: bool) -> str:
    """The options as a table; trackers and launchers are part of no digest, so theirs say nothing of it."""
    shown = table(
        ["option", "type", "default", "what it does"],
        [
            [
                f"`{row.key}`",
                row.type_words,
                "required" if row.required else f"`{row.default}`" if row.default else "",
                ". ".join(part.rstrip(".") for part in _meaning(row, in_digests)) + ".",
            ]
            for row in rows
        ],
    )
    if not in_digests:
        return shown
    exceptions = ", but for those that say otherwise" if any(not row.identity for row in rows) else ""
    return f"{shown}\n\nEvery option is part of the digest of a stage that uses it{exceptions}."


def _meaning(row: OptionRow, in_digests: bool) -> Iterator[str]:
    yield inline(row.doc)
    if row.source:
        yield f"*Source: {row.source}*"
    if in_digests and not row.identity:
        yield "*Not part of the digest*"


def _facts(component: Component, provider: Provider, catalog: Catalog) -> Iterator[tuple[str, str]]:
    yield (
        "Offered by",
        f"plugin `{provider.plugin}`" + (f" of {provider.distribution}" if provider.distribution else ""),
    )
    if component.source:
        yield "Source", inline(component.source)
    if component.requires:
        distribution = provider.distribution or "its distribution"
        remedy = f" (`pip install '{distribution}[{component.extra}]'`)" if component.extra else ""
        yield "Runs on", ", ".join(component.requires) + remedy
    options = _example_options(component, catalog)
    match component:
        case StageKind():
            yield "Needs", _needs(component) or "no other stage"
            yield "Produces", _products(component, options)
            yield "Verified by `smolrecipe verify`", _yes(component.verify is not None)
            yield "Dry run", _yes(component.dry_run is not None)
            if component.imports is not None:
                yield "Models from outside", "stands for `from: ./folder` and `from: org/name@revision`"
        case ModelComponent():
            yield "Listed after", ", ".join(f"`{name}`" for name in component.after) or "nothing"
            yield "In a Hugging Face `config.json`", _counterpart(component, options)
        case Loss():
            yield "Reference model", "needed" if component.needs_reference else "not needed, and never loaded"
        case Source():
            yields = "as its options say" if options is None else f"`{component.yields(options)}`, for the example"
            yield "Rows", yields
        case Packer():
            yield "Verified by `smolrecipe verify`", _yes(component.verify is not None)
        case _:
            pass


def _needs(component: StageKind) -> str:
    """What each option that names a stage asks of it."""
    needs = [f"`{row.key}`: {row.type_words}" for row in option_rows(component.options) if "a stage" in row.type_words]
    return "; ".join(needs)


def _products(component: StageKind, options: Any) -> str:
    if options is None:
        return "what its options say"
    return ", ".join(
        f"`{name}`" if value is True else f"no `{name}` ({value})"
        for name, value in component.produces(options).items()
    )


def _counterpart(component: ModelComponent, options: Any) -> str:
    if component.to_hf is None:
        return "none: a model with it is published as the engine's checkpoint only"
    back = "" if component.from_hf is not None else "; not read back from one"
    return f"written{back}"


def _example_options(component: Component, catalog: Catalog) -> Any | None:
    """The example structured, ``None`` where there is none that can be."""
    required = any(field.default is attrs.NOTHING for field in attrs.fields(component.options))
    if required and not component.example:
        return None
    try:
        options: Any = make_converter(catalog).structure(_plain(component.example), component.options)
    except Exception:  # of any kind: the conformance kit reports it, and a page is no place to fail
        return None
    return options


def _functions(component: Component, heading: str) -> Iterator[str]:
    """What the docstrings of the component's own functions say; those that say nothing are left out."""
    described, types = [], []
    for name in _FUNCTIONS[type(component)]:
        function = getattr(component, name)
        if inspect.isfunction(function) and function.__name__ != "<lambda>" and docstring(function):
            described.append(f"**`{name}`**: `{call(function)}`\n\n{markdown(docstring(function))}")
            types += [word for word in re.findall(r"\w+", call(function)) if word in contract_names()]
    if described:
        yield f"{heading}# Functions"
        yield from described
    if types:
        links = [f"[`{name}`](../descriptors.md#{name.lower()})" for name in dict.fromkeys(types)]
        yield f"Shapes, units and errors of what they are handed and hand back: {', '.join(links)}."


def _plain(value: Any) -> Any:
    """Mappings and tuples as YAML and the converter take them."""
    if hasattr(value, "items"):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _yes(value: bool) -> str:
    return "yes" if value else "no"
