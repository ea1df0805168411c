"""From YAML to typed options: strict types, every problem at once, each with its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from smolrecipe.components import KINDS
from smolrecipe.errors import RecipeError
from smolrecipe.options import Model, StageRef, Use
from smolrecipe.recipe.compose import compose
from smolrecipe.recipe.converter import make_converter, unstructure
from smolrecipe.recipe.recipe import Recipe
from smolrecipe.recipe.structure import structure
from smolrecipe_registry.discovery import Registry, load_registry

Write = Callable[..., Path]
HEAD = "name: toy\nlauncher: {use: direct}\n"


@pytest.fixture
def registry(toy_plugin: None) -> Registry:
    return load_registry(("toy",))


@pytest.fixture
def load(write_recipe: Write, registry: Registry) -> Callable[..., Recipe]:
    def load(text: str, *settings: str) -> Recipe:
        path = write_recipe(HEAD + text)
        return structure(compose(path, settings), path, registry.catalog)

    return load


@pytest.fixture
def problems(load: Callable[..., Recipe], tmp_path: Path) -> Callable[..., list[str]]:
    def problems(text: str) -> list[str]:
        with pytest.raises(RecipeError) as caught:
            load(text)
        return [str(problem).removeprefix(f"{tmp_path}/recipe.yaml:") for problem in caught.value.problems]

    return problems


def test_options_have_their_types(load: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = load(
        "stages:\n"
        "  one: {use: count, to: 3}\n"
        "  two:\n"
        "    use: count\n"
        "    to: 2\n"
        "    seconds: 1\n"
        "    from: one@best\n"
        "    schedule: {use: ramp, steps: 4}\n"
        "    data: {words: {use: words, words: [x, y], file: more.txt}}\n"
        "    layers: {count: 7}\n"
        "    pair: [1, 0.25]\n"
    )
    options = recipe.stages["two"].options
    assert options.seconds == 1.0 and isinstance(options.seconds, float)
    assert options.from_ == StageRef("one", "best")
    assert options.schedule.name == "ramp" and options.schedule.options.steps == 4
    assert options.data["words"].options.words == ("x", "y")
    assert options.data["words"].options.file == tmp_path / "more.txt"
    assert options.layers.count == 7 and options.pair == (1.0, 0.25)


def test_every_problem_is_reported_at_once_with_its_place(problems: Callable[..., list[str]]) -> None:
    found = problems(
        "modle: {}\n"
        "stages:\n"
        "  one: {use: count, to: 1.5, flag: 'false', layres: 3, pair: abc, layers: {kind: tall}}\n"
        "  two: {use: count, to: '1', schedule: {use: rampp}, data: {x: {use: words, wrds: 3}}}\n"
        "  net: {use: bild}\n"
        "  four: {use: count, label: 3}\n"
        "  five: 3\n"
        "  six: {use: count, to: 1, pair: [1, 2, 3]}\n"
        "  'a b': {use: count, to: 1}\n"
    )
    assert found == [
        "3:1: unknown key 'modle' in the recipe; did you mean 'model'?",
        "5:21: 'to' must be a whole number, not the number 1.5",
        "5:30: 'flag' must be true or false, not the text 'false'",
        "5:45: unknown key 'layres' in 'stages.one' (stage kind 'count'); did you mean 'layers'?",
        "5:56: 'pair' must be a list, not the text 'abc'",
        "5:76: 'kind' must be one of wide, deep, not the text 'tall'",
        "6:21: 'to' must be a whole number, not the text '1'",
        "6:41: unknown schedule 'rampp'; did you mean 'ramp'?",
        "6:77: unknown key 'wrds' in 'stages.two.data.x' (source 'words'); did you mean 'words'?",
        "7:9: unknown stage kind 'bild'; did you mean 'build'?",
        "8:3: 'stages.four' (stage kind 'count') lacks the required key 'to'",
        "8:22: 'label' must be text, not the number 3 (put it in quotes)",
        "9:3: 'five' must be a mapping with 'use: <stage kind>', not the number 3",
        "10:28: 'pair' must be a list of 2, not of 3",
        "11:3: stage name 'a b' may hold letters, digits, '-', '_' and '.' only",
    ]


def test_bounds_are_checked_with_their_place(problems: Callable[..., list[str]]) -> None:
    found = problems("stages:\n  one: {use: count, to: 0, seconds: -1, layers: {count: 0}}\n")
    assert found == [
        "4:21: 'to' must be at least 1, not 0",
        "4:28: 'seconds' must be at least 0, not -1.0",
        "4:50: 'count' must be at least 1, not 0",
    ]


def test_booleans_are_not_numbers(problems: Callable[..., list[str]]) -> None:
    assert "not true" in problems("stages:\n  one: {use: count, to: true}\n")[0]


@pytest.mark.parametrize("stages", ["", "stages: {}\n", "stages: [1]\n", "stages: 3\n"])
def test_a_recipe_without_stages_is_refused(problems: Callable[..., list[str]], stages: str) -> None:
    assert "'stages' must map" in problems(stages)[0]


def test_the_recipes_model_lies_under_each_stages_own(load: Callable[..., Recipe]) -> None:
    recipe = load(
        "model:\n"
        "  body: {use: layers, count: 3}\n"
        "  head: {use: layers}\n"
        "stages:\n"
        "  plain: {use: build}\n"
        "  own: {use: build, model: {body: {kind: deep}, head: {use: odd}, neck: {use: layers, count: 1}}}\n"
        "  none: {use: count, to: 1}\n"
    )
    plain = recipe.stages["plain"].options.model
    own = recipe.stages["own"].options.model
    assert isinstance(plain, Model) and list(plain.components) == ["body", "head"]
    assert list(own.components) == ["body", "head", "neck"]
    body = own.components["body"].options
    assert (body.count, body.kind) == (3, "deep")
    assert own.components["head"].name == "odd"
    assert recipe.place(("stages", "own", "model", "body", "count")).line == 4
    assert recipe.place(("stages", "own", "model", "body", "kind")).line == 8


def test_plain_data_structures_to_the_same_value_again(load: Callable[..., Recipe], registry: Registry) -> None:
    recipe = load(
        "stages:\n  one: {use: count, to: 3, data: {w: {use: words, file: x.txt}}, "
        "schedule: {use: ramp}, from: two@x}\n"
        "  two: {use: build, model: {m: {use: layers, count: 5}}}\n"
    )
    converter = make_converter(registry.catalog)
    for use in recipe.stages.values():
        (kind,) = [kind for kind in KINDS if isinstance(use.component, kind)]
        assert converter.structure(unstructure(use), Use[kind]) == use


def test_set_reaches_into_options(load: Callable[..., Recipe]) -> None:
    recipe = load("stages:\n  one: {use: count, to: 3}\n", "stages.one.to=9", "stages.one.layers.kind=deep")
    assert recipe.stages["one"].options.to == 9
    assert recipe.stages["one"].options.layers.kind == "deep"


def test_recipes_are_frozen(load: Callable[..., Recipe]) -> None:
    recipe = load("stages:\n  one: {use: count, to: 3}\n")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        recipe.stages["one"].options.to = 4
