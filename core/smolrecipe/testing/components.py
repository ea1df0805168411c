"""What every component must hold, whatever its kind: its descriptor, its options, its example, what it requires."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args
from unittest import SkipTest

import attrs
import yaml
from packaging.requirements import Requirement

from smolrecipe.catalog import Catalog
from smolrecipe.components import KINDS, Component, Loss, ModelComponent, Optimizer, Schedule
from smolrecipe.errors import RecipeError
from smolrecipe.options import Model, StageRef, Use, yaml_key
from smolrecipe.provenance.packages import closure, declared, extras_of, normal_name
from smolrecipe.recipe.converter import make_converter, unstructure
from smolrecipe.recipe.nodes import plain
from smolrecipe.recipe.read import read_text, read_value
from smolrecipe.testing.contract import Check, ContractError, ElsewhereError, broken, example_of
from smolrecipe_registry.requirements import owners

SOURCED = (ModelComponent, Optimizer, Schedule, Loss)
"""Kinds behind which there is a paper, an equation or a published configuration, which ``source`` names."""

_FROZEN = vars(attrs.make_class("Frozen", (), frozen=True))["__setattr__"]

QUICK_SECONDS = 0.5
"""How long ``check`` and ``missing`` may take: a plan asks every component of a recipe."""


def checks(component: Component, catalog: Catalog) -> Iterator[Check]:
    """The checks of any component; names of others in its example are looked up in ``catalog``."""
    for name, check in (
        ("its descriptor is one of the core's", _check_descriptor),
        ("its name is one that recipes can write", _check_name),
        ("its summary is one line without a period", _check_summary),
        ("its source is named", _check_source),
        ("its options are frozen attrs classes", _check_options),
        ("every option says what it does", _check_docs),
        ("references to stages say what they need", _check_needs),
    ):
        yield Check(name=name, run=partial(check, component))
    if type(component) not in KINDS or not attrs.has(component.options):
        return  # which is reported, and leaves nothing to try
    yield Check(name="what it requires comes with what it declares", run=partial(_check_requires, component, catalog))
    yield Check(name="its example is options", run=partial(_check_example, component, catalog))
    for name, check_with in (
        ("its example survives YAML", _check_yaml),
        ("its check accepts its example", _check_check),
        ("it says in sentences what is missing", _check_missing),
    ):
        yield Check(name=name, run=partial(_with_example, check_with, component, catalog))


def option_fields(options: type) -> Iterator[tuple[str, attrs.Attribute[Any]]]:
    """Every field of an options class and of the options classes that lie in it, with its path as YAML writes it.

    The options of components that a recipe chooses are not among them: these are checked with their own component.
    """
    yield from _fields(options, (), ())


def _fields(options: type, path: tuple[str, ...], outer: tuple[type, ...]) -> Iterator[tuple[str, Any]]:
    if not attrs.has(options) or options in (*outer, StageRef, Model, Use):
        return  # the core's own have no options in them
    attrs.resolve_types(options)
    for field in attrs.fields(options):
        here = (*path, yaml_key(field.name))
        yield ".".join(here), field
        for inner in _types_in(field.type):
            yield from _fields(inner, here, (*outer, options))


def _types_in(annotation: Any) -> Iterator[type]:
    """The classes that an annotation is made of, what stands in brackets included; those of ``Use[...]`` are not."""
    if isinstance(annotation, type) and not get_args(annotation):
        yield annotation
    for argument in get_args(annotation):
        if not (isinstance(argument, type) and issubclass(argument, Component)):
            yield from _types_in(argument)


def _with_example(check: Callable[[Component, Catalog, Any], None], component: Component, catalog: Catalog) -> None:
    """Run a check of the example; one that is no options is reported by its own check alone."""
    try:
        options = example_of(component, catalog)
    except ContractError:
        return
    check(component, catalog, options)


def _check_example(component: Component, catalog: Catalog) -> None:
    try:
        example_of(component, catalog)
    except ElsewhereError as error:
        raise SkipTest(f"it can be tried only beside the plugins that it names: {error}") from None


def _called(component: Component) -> str:
    return f"{KINDS.get(type(component), 'component')} '{component.name}'"


def _check_descriptor(component: Component) -> None:
    if type(component) not in KINDS:
        broken(
            f"'{component.name}' is a {type(component).__name__}, which the core does not know: offer one of its own "
            f"descriptors ({', '.join(kind.__name__ for kind in KINDS)}), which are frozen"
        )
    for field in attrs.fields(type(component)):
        value, annotation = getattr(component, field.name), str(field.type)
        if not annotation.startswith("Callable") or (value is None and annotation.endswith("| None")):
            continue
        if not callable(value):
            broken(f"{_called(component)} has {value!r} as '{field.name}', which takes a function")


def _check_name(component: Component) -> None:
    try:
        read = read_value(component.name, "its name").value
    except RecipeError:
        read = None
    if not isinstance(read, str) or read != component.name or not read.replace("-", "_").isidentifier():
        broken(
            f"a recipe cannot write 'use: {component.name}': name it with letters, digits "
            "and underscores, so that YAML reads it as text"
        )


def _check_summary(component: Component) -> None:
    summary = component.summary
    if not summary.strip() or summary.endswith(".") or len(summary.splitlines()) != 1:
        broken(f"the summary of {_called(component)} is {summary!r}: say in one line, without a period, what it is")


def _check_source(component: Component) -> None:
    if isinstance(component, SOURCED) and not component.source.strip():
        broken(
            f"{_called(component)} names no source: give the paper with its equation, or the code, that it follows "
            "(source='arXiv:2405.14734, equation 6')"
        )


def _check_options(component: Component) -> None:
    classes = {component.options} | {
        inner for _, field in option_fields(component.options) for inner in _types_in(field.type) if attrs.has(inner)
    }
    for cls in sorted(classes, key=lambda cls: cls.__qualname__):
        if not isinstance(cls, type) or not attrs.has(cls):
            broken(f"the options of {_called(component)} are {cls!r}: make them an attrs class (attrs.frozen)")
        if vars(cls).get("__setattr__") is not _FROZEN:
            broken(
                f"{cls.__qualname__}, options of {_called(component)}, can be changed: decorate it with attrs.frozen"
            )


def _check_docs(component: Component) -> None:
    if silent := [path for path, field in option_fields(component.options) if not field.metadata.get("doc")]:
        broken(
            f"{_called(component)} does not say what {', '.join(map(repr, silent))} is: "
            "declare it as option(doc='what it does, with its unit')"
        )


def _check_needs(component: Component) -> None:
    for path, field in option_fields(component.options):
        needs = field.metadata.get("needs")
        words = (needs,) if isinstance(needs, str) else needs or ()
        if StageRef in set(_types_in(field.type)) and not (words and all(isinstance(w, str) and w for w in words)):
            broken(
                f"'{path}' of {_called(component)} names a stage and does not say what it needs from it: "
                "option(needs='hf-model', ...), so that a plan can refuse a stage which has none"
            )


def _check_yaml(component: Component, catalog: Catalog, options: Any) -> None:
    text = as_yaml(unstructure(options))
    try:
        again: Any = make_converter(catalog).structure(
            plain(read_text(text, str(Path.cwd() / "r.yaml"))), component.options
        )
    except Exception as error:
        inner = "; ".join(str(child) for child in getattr(error, "exceptions", ())) or str(error)
        broken(
            f"a run writes the options of {_called(component)} down and reads them again, and they do not come back "
            f"({inner}); written were {text!r}: a default must have the type of its option"
        )
    differing = _differing(options, again)
    if differing:
        broken(
            f"a run writes the options of {_called(component)} down and reads them again, and then they differ: "
            f"{differing}; a default must have the type of its option (a list is no tuple), and a path be absolute"
        )


def as_yaml(value: Any) -> str:
    """Plain data as YAML that the strict reader reads as the same data: texts in quotes, numbers in full."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=100))


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


def _differing(options: Any, again: Any) -> str:
    """Which options are not equal, as a person would name them; nothing where all are."""
    if options == again:
        return ""
    pairs = [
        (field.name, getattr(options, field.name), getattr(again, field.name)) for field in attrs.fields(type(again))
    ]
    return ", ".join(f"'{yaml_key(name)}' was {one!r} and is {two!r}" for name, one, two in pairs if one != two)


def _check_check(component: Component, catalog: Catalog, options: Any) -> None:
    said = _sentences(component, "check", component.check, options)
    if said:
        broken(f"{_called(component)} refuses its own example: {'; '.join(said)}")


def _check_missing(component: Component, catalog: Catalog, options: Any) -> None:
    _sentences(component, "missing", component.missing, options)


def _sentences(component: Component, name: str, function: Callable[[Any], Iterable[str]], options: Any) -> list[str]:
    """What a function of the component says of options; it must answer in sentences, and quickly (best of two)."""
    seconds = []
    said: list[str] = []
    for _ in range(2):
        started = time.perf_counter()
        answer = function(options)
        if isinstance(answer, str) or not isinstance(answer, Iterable):
            broken(
                f"'{name}' of {_called(component)} returns {answer!r}: yield a sentence for each thing that is wrong"
            )
        said = list(answer)
        seconds.append(time.perf_counter() - started)
        if seconds[-1] < QUICK_SECONDS:
            break
    if strange := [sentence for sentence in said if not isinstance(sentence, str) or not sentence.strip()]:
        broken(f"'{name}' of {_called(component)} yields {strange[0]!r}, which is no sentence")
    if min(seconds) >= QUICK_SECONDS:
        broken(
            f"'{name}' of {_called(component)} takes {min(seconds):.1f} s: every plan asks it, so look only at what "
            "the options say, and leave reading data to the stage"
        )
    return said


def _check_requires(component: Component, catalog: Catalog) -> None:
    for module in component.requires:
        if not module.isidentifier():
            broken(
                f"{_called(component)} requires '{module}', which is no top-level module: name what is before the dot"
            )
    distribution = catalog.provider(component).distribution
    if component.extra and normal_name(component.extra) not in extras_of(distribution):
        known = ", ".join(sorted(extras_of(distribution))) or "none"
        broken(
            f"{_called(component)} says that the extra '{component.extra}' installs what it requires, and "
            f"{distribution or 'its plugin'} offers no such extra (it offers: {known})"
        )
    brought = closure(_remedy(component, distribution))
    for module in component.requires:
        if not (owners(module) or {normal_name(module)}) & brought:
            what = f"the extra '{component.extra}'" if component.extra else "the requirements"
            broken(
                f"{_called(component)} requires the module '{module}', and nothing in {what} of "
                f"{distribution or 'its plugin'} brings it: add {' or '.join(owners(module)) or module} there, "
                "or name the extra that has it (extra='...')"
            )


def _remedy(component: Component, distribution: str) -> list[Requirement]:
    """What an installation of the plugin with the component's extra asks for."""
    return declared(distribution, [normal_name(component.extra)] if component.extra else [])
