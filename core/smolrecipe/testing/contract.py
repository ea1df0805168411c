"""A contract as checks: what they are, and which there are for a component."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from attrs import frozen

from smolrecipe.catalog import Catalog, UnknownComponentError
from smolrecipe.components import (
    KINDS,
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
from smolrecipe.errors import Place
from smolrecipe.recipe.converter import make_converter
from smolrecipe.recipe.problems import bound_problems, structuring_problems


class ContractError(AssertionError):
    """A contract that a plugin does not hold: what was found, what was expected, and where to mend it."""


class ElsewhereError(ContractError):
    """An example whose only fault is that it names components of other plugins, which are not loaded here."""


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
    Generator: "generators",
    RowFilter: "filters",
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
    kind = type(component)
    try:
        of_its_kind = importlib.import_module(f"smolrecipe.testing.{MODULES[kind]}")
    except ModuleNotFoundError as error:
        reason = (
            f"what every {KINDS[kind]} must hold is told in terms of {error.name}, which cannot be imported here "
            f"({error}): declare what your {KINDS[kind]} runs on"
        )
        yield Check(name="what it runs on is there", run=lambda: broken(reason))
        return
    yield from of_its_kind.checks(component, options)


def example_of(component: Component, catalog: Catalog) -> Any:
    """The component's example as its options.

    Raises:
        ElsewhereError: when all that is wrong is that it names components that ``catalog`` does not have.
        ContractError: with every mistake in the example.
    """
    where = f"the example of {KINDS[type(component)]} '{component.name}'"
    try:
        options: Any = make_converter(catalog).structure(dict(component.example), component.options)
    except Exception as error:
        problems = list(structuring_problems(error, (), where, lambda path: Place(where)))
        if all(isinstance(leaf, UnknownComponentError) for leaf in _leaves(error)):
            raise ElsewhereError("; ".join(problem.message for problem in problems)) from None
    else:
        problems = list(bound_problems(options, (), lambda path: Place(where)))
        if not problems:
            return options
    broken(f"{where} is none: {'; '.join(problem.message for problem in problems)}")


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors in a tree of validation errors that are no group themselves."""
    if not isinstance(error, BaseExceptionGroup):
        yield error
        return
    for child in error.exceptions:
        yield from _leaves(child)
