"""One invocation: the registry, loaded once, and the way from a recipe's reference to its plan."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from smolrecipe.completing import complete_recipe
from smolrecipe.errors import RecipeError, near_miss

if TYPE_CHECKING:
    from smolrecipe.planning.plan import Plan
    from smolrecipe.planning.variants import SweepPlan
    from smolrecipe.recipe.nodes import Node
    from smolrecipe.recipe.recipe import Recipe
    from smolrecipe.running.store import RunStore
    from smolrecipe_registry.discovery import Registry

F = TypeVar("F", bound=Callable[..., Any])


@functools.cache
def _registry(plugins: tuple[str, ...] | None) -> Registry:
    from smolrecipe_registry.discovery import load_registry

    return load_registry(plugins)


class Session:
    """What all commands share. ``plugins`` are the only plugins to load, ``None`` for all.

    What a command does not ask for is not imported: neither plugins, nor what reads, composes and plans recipes.
    """

    def __init__(self, plugins: tuple[str, ...] | None) -> None:
        self.plugins = plugins
        self._composed: dict[tuple[Path, tuple[str, ...]], Node] = {}

    @property
    def registry(self) -> Registry:
        """The loaded plugins."""
        return _registry(self.plugins)

    def recipe(self, reference: str, settings: Sequence[str]) -> Recipe:
        """The recipe that ``reference`` names, structured."""
        from smolrecipe.recipe.structure import structure

        file = self.find_recipe(reference)
        return structure(self._compose(file, settings), file, self.registry.catalog)

    def plan(self, reference: str, settings: Sequence[str]) -> Plan:
        """The plan of the recipe that ``reference`` names."""
        from smolrecipe.planning.make import make_plan

        return make_plan(self.recipe(reference, settings), self.registry.catalog, self.registry.manager.hook)

    def sweep(self, reference: str, settings: Sequence[str], sweeps: Sequence[str]) -> SweepPlan | None:
        """The plan of the recipe's variants, ``None`` where neither it nor ``sweeps`` asks for any."""
        from smolrecipe.recipe.sweep import variants_of

        file = self.find_recipe(reference)
        base = self._compose(file, settings)
        if not (variants := variants_of(base, settings, sweeps)):
            return None
        from smolrecipe.planning.variants import plan_variants

        return plan_variants(variants, file, self.registry.catalog, self.registry.manager.hook)

    def find_recipe(self, reference: str) -> Path:
        """The file that a reference names: a path, a recipe that ships with smolrecipe, or one that a plugin finds.

        Raises:
            RecipeError: when nothing goes by that name.
        """
        from smolrecipe.recipe.paths import no_file
        from smolrecipe.recipe.shipped import shipped_recipe, shipped_recipes
        from smolrecipe.recipe.wording import readable

        path = Path(reference)
        lacking = no_file(path)
        if lacking is None:
            return path
        shipped = shipped_recipe(reference)
        if shipped is not None:
            return shipped
        brought: Path | None = self.registry.manager.hook.smolrecipe_find_recipe(reference=reference)
        if brought is not None:
            return brought
        known = shipped_recipes()
        name = path.name.removesuffix(".yaml")
        hint = near_miss(name, known) or f"; recipes that ship with smolrecipe: {', '.join(known)}"
        found = "there is no such file" if lacking.startswith("there is no file") else lacking
        raise RecipeError([readable(f"no recipe '{reference}': {found}{hint}")])

    def _compose(self, file: Path, settings: Sequence[str]) -> Node:
        """The recipe in a file as this command takes it: read once."""
        from smolrecipe.recipe.compose import compose

        key = (file, tuple(settings))
        if key not in self._composed:
            self._composed[key] = compose(file, settings)
        return self._composed[key]


def recipe_arguments(function: F) -> F:
    """The argument and option of every command that reads a recipe."""
    function = click.option(
        "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a value, e.g. stages.sft.epochs=2."
    )(function)
    return click.argument("recipe", metavar="RECIPE", shell_complete=complete_recipe)(function)


def sweep_option(function: F) -> F:
    """The option of commands that take a recipe in several variants."""
    return click.option(
        "--sweep",
        "sweeps",
        multiple=True,
        metavar="KEY=V1,V2,...",
        help="Take the recipe once with each value, e.g. stages.apo.loss.use=apo_zero,dpo; several: each combination.",
    )(function)


def _remembering(context: click.Context, parameter: click.Parameter, runs: Path) -> Path:
    from smolrecipe.file_hashes import remember_in

    remember_in(runs)
    return runs


def store_option(function: F) -> F:
    """The option of every command that looks into the run store. Hashes of large files are remembered there."""
    return click.option(
        "--runs",
        type=click.Path(file_okay=False, path_type=Path),
        default=Path("runs"),
        show_default=True,
        envvar="SMOLRECIPE_RUNS",
        callback=_remembering,
        help="The run store.",
    )(function)


def store_of(recipe: Recipe, runs: Path) -> RunStore:
    """The part of the run store that belongs to a recipe."""
    from smolrecipe.running.store import RunStore

    return RunStore(runs / recipe.name)


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
