"""Models from outside the recipe: ``from: ./folder`` or ``from: org/name@revision`` adds a stage that brings it in."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping

from smolrecipe.catalog import Catalog
from smolrecipe.components import StageKind
from smolrecipe.errors import RecipeError
from smolrecipe.options import StageRef, Use, walk
from smolrecipe.recipe.names import folder_name
from smolrecipe.recipe.nodes import Path_

_FOLDERS = (".", "/", "~")


def is_outside(reference: str) -> bool:
    """Whether a reference names no stage but a model outside the recipe: no name of a stage has a slash in it."""
    return "/" in reference or is_folder(reference)


def is_folder(reference: str) -> bool:
    """Whether a reference is a folder; any other with a slash in it is a name on the Hub."""
    return reference.startswith(_FOLDERS)


class OutsideModels:
    """What a recipe refers to outside itself, and the stages that bring it in."""

    def __init__(self, stages: Collection[str], catalog: Catalog) -> None:
        self._taken = {name.casefold() for name in stages}
        self._catalog = catalog
        self._names: dict[str, str] = {}
        self._numbers: dict[str, Iterator[int]] = {}

    def name(self, reference: str) -> str:
        """The name of the stage for a reference: its last part, numbered where a stage is called so already."""
        if reference not in self._names:
            model = reference if is_folder(reference) else reference.partition("@")[0]
            name = folder_name(model.rstrip("/").rpartition("/")[2]) or "model"
            numbers = self._numbers.setdefault(name, itertools.count(1))
            names = (f"{name}-{number}" if number > 1 else name for number in numbers)
            self._names[reference] = next(free for free in names if free.casefold() not in self._taken)
            self._taken.add(self._names[reference].casefold())
        return self._names[reference]

    @property
    def names(self) -> Collection[str]:
        """The names given so far."""
        return self._names.values()

    def stages(self) -> dict[str, Use[StageKind]]:
        """The stages for all references.

        Raises:
            RecipeError: when not exactly one plugin brings in models.
        """
        if not self._names:
            return {}
        kinds = [kind for kind, _ in self._catalog if isinstance(kind, StageKind) and kind.imports is not None]
        if len(kinds) != 1:
            who = " and ".join(f"stage kind '{kind.name}' of {self._catalog.provider(kind)}" for kind in kinds)
            reference = next(iter(self._names))
            raise RecipeError(
                [
                    f"'{reference}' is a model outside the recipe, and {who or 'no installed plugin'} can bring it in"
                    + (": leave one out with --plugins" if kinds else "")
                ]
            )
        (kind,) = kinds
        assert kind.imports is not None
        return {name: Use(kind, kind.imports(reference)) for reference, name in self._names.items()}


def referring_to(names: Collection[str], stages: Mapping[str, Use[StageKind]]) -> Iterator[tuple[str, Path_]]:
    """Which of ``names`` the stages refer to, with the path of each reference."""
    for stage, use in stages.items():
        for path, value, _ in walk(use, ("stages", stage)):
            if isinstance(value, StageRef) and value.stage in names:
                yield value.stage, path
