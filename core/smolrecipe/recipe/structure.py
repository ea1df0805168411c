"""From composed nodes to a typed recipe, with every problem at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
from cattrs import Converter

from smolrecipe.catalog import Catalog
from smolrecipe.components import KINDS, Launcher, StageKind, Tracker
from smolrecipe.errors import Problem, RecipeError, near_miss
from smolrecipe.options import Model, Use, walk
from smolrecipe.recipe.converter import describe, make_converter
from smolrecipe.recipe.names import name_problem
from smolrecipe.recipe.nodes import Node, Path_, merge, places, plain, size
from smolrecipe.recipe.outside import OutsideModels, referring_to
from smolrecipe.recipe.problems import bound_problems, structuring_problems
from smolrecipe.recipe.read import MOST_VALUES
from smolrecipe.recipe.recipe import Recipe
from smolrecipe.recipe.wording import refusal

_KEYS = ("name", "description", "model", "stages", "launcher", "trackers", "try_instead", "sweep")
_DEFAULT_LAUNCHER = "local"
_MOST_STAGES = 1000


def structure(node: Node, file: Path, catalog: Catalog) -> Recipe:
    """The recipe that ``node`` describes.

    Raises:
        RecipeError: with every problem of the recipe: unknown keys and components, wrong types, values out of bounds.
    """
    return _Structurer(node, file, catalog).recipe()


class _Structurer:
    def __init__(self, node: Node, file: Path, catalog: Catalog) -> None:
        self.file = file
        self.catalog = catalog
        self.problems: list[Problem] = []
        self.model_is_used = False
        if not isinstance(node.value, dict):
            raise refusal([Problem("a recipe is a mapping with 'name' and 'stages'", node.place)])
        self.node = self.with_stage_models(node)
        self.places = dict(places(self.node))
        stages = plain(self.node).get("stages")
        self.outside = OutsideModels(stages if isinstance(stages, dict) else (), catalog)
        self.converter: Converter = make_converter(catalog, self.outside.name)

    def recipe(self) -> Recipe:
        value = plain(self.node)
        for key in value:
            if key not in _KEYS:
                hint = near_miss(key, _KEYS) or f"; known: {', '.join(_KEYS)}"
                self.problems.append(Problem(f"unknown key '{key}' in the recipe{hint}", self.place((key,))))
        name = self.text(value, "name", required=True)
        if name and (wrong := name_problem(name, "recipe")):
            self.problems.append(Problem(wrong, self.place(("name",))))
        if "model" in value and not self.model_is_used:  # a mistake in it is one, whoever takes it later
            self.structured(value["model"], Model, ("model",), "the model")
        recipe = Recipe(
            name=name,
            file=self.file,
            description=self.text(value, "description"),
            stages=self.stages(value),
            launcher=self.use(value.get("launcher", {"use": _DEFAULT_LAUNCHER}), Use[Launcher], ("launcher",)),
            trackers=self.trackers(value),
            try_instead=self.text(value, "try_instead"),
            places=self.places,
        )
        if self.problems:
            raise refusal(sorted(self.problems, key=_reading_order))
        return recipe

    def stages(self, value: dict[str, Any]) -> dict[str, Use[StageKind]]:
        stages = value.get("stages")
        if not isinstance(stages, dict) or not stages:
            found = "" if stages is None else f", not {describe(stages)}"
            self.problems.append(
                Problem(f"'stages' must map at least one name to a stage{found}", self.place(("stages",)))
            )
            return {}
        structured = {}
        self.check_stage_names(stages)
        for name, stage in itertools.islice(stages.items(), _MOST_STAGES):
            structured[name] = self.use(stage, Use[StageKind], ("stages", name))
        return {**self.imports(structured), **structured}

    def check_stage_names(self, stages: dict[str, Any]) -> None:
        """Names that cannot be those of folders, or not of two."""
        alike: dict[str, str] = {}
        for number, name in enumerate(stages):
            place = self.place(("stages", name))
            first = alike.setdefault(name.casefold(), name)
            if number == _MOST_STAGES:
                self.problems.append(Problem(f"more than {_MOST_STAGES:,} stages, which no recipe has", place))
                return
            if wrong := name_problem(name, "stage"):
                self.problems.append(Problem(wrong, place))
            elif first != name:
                what = (
                    f"stage name '{name}' differs from '{first}' in case only, so that some machines take their folders"
                )
                self.problems.append(Problem(f"{what} for one: rename one", place))

    def imports(self, stages: dict[str, Use[StageKind]]) -> dict[str, Use[StageKind]]:
        """A stage for each model outside the recipe that the stages refer to, placed where the first of them does."""
        for name, path in referring_to(self.outside.names, stages):
            self.places.setdefault(("stages", name), self.place(path))
        try:
            return self.outside.stages()
        except RecipeError as error:
            place = self.place(("stages", *self.outside.names)[:2])
            self.problems.extend(Problem(problem.message, place) for problem in error.problems)
            return {}

    def trackers(self, value: dict[str, Any]) -> tuple[Use[Tracker], ...]:
        trackers = value.get("trackers", [])
        if not isinstance(trackers, list):
            self.problems.append(
                Problem(f"'trackers' must be a list, not {describe(trackers)}", self.place(("trackers",)))
            )
            return ()
        return tuple(self.use(item, Use[Tracker], ("trackers", index)) for index, item in enumerate(trackers))

    def use(self, value: Any, type_: Any, path: Path_) -> Any:
        """Structure a ``use:`` mapping; a problem is noted and gives ``None``."""
        named = value.get("use") if isinstance(value, dict) else None
        (kind,) = type_.__args__
        return self.structured(value, type_, path, f"{KINDS[kind]} '{named}'" if named else KINDS[kind])

    def structured(self, value: Any, type_: Any, path: Path_, owner: str) -> Any:
        """Structure a value that messages call ``owner``; a problem is noted and gives ``None``."""
        try:
            structured = self.converter.structure(value, type_)
        except Exception as error:
            self.problems.extend(structuring_problems(error, path, owner, self.place))
            return None
        self.problems.extend(bound_problems(structured, path, self.place))
        return structured

    def text(self, value: dict[str, Any], key: str, *, required: bool = False) -> str:
        text = value.get(key, "")
        if not isinstance(text, str):
            self.problems.append(Problem(f"'{key}' must be text, not {describe(text)}", self.place((key,))))
            return ""
        if required and not text:
            self.problems.append(Problem(f"the recipe lacks '{key}'", self.place(())))
        return str(text)

    def with_stage_models(self, node: Node) -> Node:
        """The node with the recipe's ``model:`` laid under the ``model:`` of every stage whose kind takes one."""
        assert isinstance(node.value, dict)
        model, stages = node.value.get("model"), node.value.get("stages")
        if model is None or stages is None or not isinstance(stages.value, dict):
            return node
        merged = dict(stages.value)
        taking = {name: stage for name, stage in merged.items() if self.takes_model(stage)}
        if len(taking) * size(model) > MOST_VALUES:
            what = f"a model of {size(model):,} values in each of {len(taking):,} stages"
            raise refusal([Problem(f"{what}: {MOST_VALUES:,} together are the most", model.place)])
        for name, stage in taking.items():
            assert isinstance(stage.value, dict)
            own = stage.value.get("model")
            with_model = {**stage.value, "model": model if own is None else merge(model, own)}
            merged[name] = Node(with_model, stage.place, {"model": model.place, **stage.key_places})
        self.model_is_used = bool(taking)
        return Node(
            {**node.value, "stages": Node(merged, stages.place, stages.key_places)}, node.place, node.key_places
        )

    def takes_model(self, stage: Node) -> bool:
        use = stage.value.get("use") if isinstance(stage.value, dict) else None
        if use is None or use.value not in self.catalog.names(StageKind):
            return False
        options = self.catalog.get(StageKind, str(use.value)).options
        attrs.resolve_types(options)
        return any(field.name == "model" and field.type is Model for field in attrs.fields(options))

    def place(self, path: Path_) -> Any:
        while path and path not in self.places:
            path = path[:-1]
        return self.places[path]


def _reading_order(problem: Problem) -> Any:
    place = problem.place
    return (place.file, place.line or 0, place.column or 0, problem.message) if place else ("", 0, 0, problem.message)


def all_uses(recipe: Recipe) -> Iterator[tuple[Path_, Use[Any]]]:
    """Every component of the recipe with its path, those inside others' options too."""
    for path, top in iterate_uses(recipe):
        for inner_path, value, _ in walk(top, path):
            if isinstance(value, Use):
                yield inner_path, value


def iterate_uses(recipe: Recipe) -> Iterator[tuple[Path_, Use[Any]]]:
    """The components that the recipe itself chooses, with the path of each."""
    for name, use in recipe.stages.items():
        yield ("stages", name), use
    yield ("launcher",), recipe.launcher
    for index, tracker in enumerate(recipe.trackers):
        yield ("trackers", index), tracker
