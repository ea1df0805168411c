"""A contract as checks: what they are, and which there are for a component."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from attrs import frozen

from smolrecipe.catalog import Catalog
from smolrecipe.components import (
    KINDS,
    Component,
    Launcher,
    Loss,
    ModelComponent,
    Optimizer,
    Packer,
    Schedule,
    Source,
    StageKind,
    Tracker,
)
from smolrecipe.errors import Place
from smolrecipe.recipe.converter import make_converter
from smolrecipe.recipe.problems import bound_problems, structuring_problems


class ContractError(AssertionError):
    """A contract that a plugin does not hold: what was found, what was expected, and where to mend it."""


@frozen(kw_only=True)
class Check:
    """One thing that a component must hold. ``run()`` raises ``ContractError`` where it does not."""

    name: str
    run: Callable[[], None]


def broken(message: str) -> NoReturn:
    """Report a contract that is not held.

    Raises:
        ContractError: always.
    """
    raise ContractError(message)


MODULES: dict[type[Component], str] = {
    StageKind: "stages",
    ModelComponent: "models",
    Optimizer: "optimizers",
    Schedule: "schedules",
    Loss: "losses",
    Source: "sources",
    Packer: "packers",
    Tracker: "trackers",
    Launcher: "launchers",
}
"""The module of this package with the checks of each kind; imported when asked for, because it may import engines.

Each has ``checks(component, options) -> Iterator[Check]``, ``options`` being the component's example, structured.
"""


def checks_of(component: Component, catalog: Catalog) -> Iterator[Check]:
    """Every check of a component: those of all components, then those of its kind.

    The names of other components in its example are looked up in ``catalog``.
    """
    general = importlib.import_module("smolrecipe.testing.components")
    yield from general.checks(component, catalog)
    try:
        options = example_of(component, catalog)
    except ContractError:
        return  # the check of the example says so
    yield from importlib.import_module(f"smolrecipe.testing.{MODULES[type(component)]}").checks(component, options)


def example_of(component: Component, catalog: Catalog) -> Any:
    """The component's example as its options.

    Raises:
        ContractError: with every mistake in the example.
    """
    where = f"the example of {KINDS[type(component)]} '{component.name}'"
    try:
        options: Any = make_converter(catalog).structure(dict(component.example), component.options)
    except Exception as error:
        problems = list(structuring_problems(error, (), where, lambda path: Place(where)))
    else:
        problems = list(bound_problems(options, (), lambda path: Place(where)))
        if not problems:
            return options
    broken(f"{where} is none: {'; '.join(problem.message for problem in problems)}")
