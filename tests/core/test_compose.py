"""``extends:`` and ``--set``: what wins, what is replaced, and where each value came from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from smolrecipe.errors import RecipeError
from smolrecipe.recipe.compose import compose
from smolrecipe.recipe.nodes import places, plain

Write = Callable[..., Path]


def test_extends_merges_mappings_and_replaces_the_rest(write_recipe: Write) -> None:
    write_recipe("a: {x: 1, y: [1, 2]}\nb: 1\n", "base.yaml")
    path = write_recipe("extends: base.yaml\na: {y: [3]}\nc: 4\n")
    assert plain(compose(path)) == {"a": {"x": 1, "y": [3]}, "b": 1, "c": 4}


def test_a_different_use_replaces_the_whole_mapping(write_recipe: Write) -> None:
    write_recipe("s: {use: cosine, floor: 0.1}\nt: {use: cosine, floor: 0.1}\n", "base.yaml")
    path = write_recipe("extends: base.yaml\ns: {use: wsd, decay: 3}\nt: {floor: 0.2}\n")
    assert plain(compose(path)) == {"s": {"use": "wsd", "decay": 3}, "t": {"use": "cosine", "floor": 0.2}}


def test_null_removes_an_inherited_key(write_recipe: Write) -> None:
    write_recipe("a: {x: 1, y: 2}\n", "base.yaml")
    path = write_recipe("extends: base.yaml\na: {x: null, z: null}\n")
    assert plain(compose(path)) == {"a": {"y": 2, "z": None}}


def test_extending_nothing_replaces_what_would_be_inherited(write_recipe: Write) -> None:
    write_recipe("a: {x: 1, y: {z: 2}}\n", "base.yaml")
    write_recipe("extends: base.yaml\na: {extends: null, w: 3}\n", "middle.yaml")
    path = write_recipe("extends: middle.yaml\na: {v: 4}\n")
    assert plain(compose(path)) == {"a": {"w": 3, "v": 4}}


def test_extends_works_in_any_mapping_and_relative_to_its_file(write_recipe: Write) -> None:
    write_recipe("web: 0.8\ncode: 0.2\n", "mixtures/one.yaml")
    write_recipe("data: {extends: mixtures/one.yaml, code: 0.1}\n", "base.yaml")
    path = write_recipe("extends: ../base.yaml\n", "inner/recipe.yaml")
    assert plain(compose(path)) == {"data": {"web": 0.8, "code": 0.1}}


def test_a_list_of_files_is_laid_over_each_other_in_order(write_recipe: Write) -> None:
    write_recipe("a: 1\nb: 1\n", "one.yaml")
    write_recipe("b: 2\nc: 2\n", "two.yaml")
    path = write_recipe("extends: [one.yaml, two.yaml]\nc: 3\n")
    assert plain(compose(path)) == {"a": 1, "b": 2, "c": 3}


def test_circles_and_missing_files_are_refused_with_a_place(write_recipe: Write) -> None:
    write_recipe("extends: b.yaml\n", "a.yaml")
    path = write_recipe("extends: a.yaml\n", "b.yaml")
    with pytest.raises(RecipeError, match=r"b\.yaml -> a\.yaml -> b\.yaml"):
        compose(path)
    with pytest.raises(RecipeError, match=r"recipe\.yaml:1:10: 'extends' names 'none\.yaml'"):
        compose(write_recipe("extends: none.yaml\n"))
    with pytest.raises(RecipeError, match="names a file"):
        compose(write_recipe("extends: {a: 1}\n"))


def test_extends_finds_a_recipe_that_ships_where_no_file_lies_beside(write_recipe: Write) -> None:
    shipped = plain(compose(write_recipe("extends: smollm3-tiny.yaml\nname: mine\n")))
    assert shipped["name"] == "mine" and shipped["model"]["decoder"]["vocab_size"] == 2048
    # Beside a file of that name, only the bare name reaches the shipped one.
    path = write_recipe("extends: smollm3-tiny\nname: nearer\nmodel: null\n", "smollm3-tiny.yaml")
    assert plain(compose(path)).keys() == shipped.keys() - {"model"}
    assert plain(compose(write_recipe("extends: smollm3-tiny.yaml\n")))["name"] == "nearer"
    with pytest.raises(RecipeError, match=r"'extends' names 'smollm-tiny'.*did you mean 'smollm3-tiny'"):
        compose(write_recipe("extends: smollm-tiny\n"))


def test_set_overrides_and_is_its_own_origin(write_recipe: Write) -> None:
    path = write_recipe("stages: {a: {steps: 3, lr: 1e-3}}\n")
    node = compose(path, ["stages.a.steps=5", "stages.a.name='7'", "stages.a.lr=null", "x=[1, {y: 2}]"])
    assert plain(node) == {"stages": {"a": {"steps": 5, "name": "7"}}, "x": [1, {"y": 2}]}
    origins = dict(places(node))
    assert str(origins["stages", "a", "steps"]) == "--set stages.a.steps"


@pytest.mark.parametrize("setting", ["steps", "=3", "a..b=3", ".a=3"])
def test_a_malformed_setting_is_refused(write_recipe: Write, setting: str) -> None:
    with pytest.raises(RecipeError, match=r"key\.subkey=value"):
        compose(write_recipe("a: 1\n"), [setting])


def test_values_know_the_file_they_came_from(write_recipe: Write) -> None:
    base = write_recipe("a:\n  x: 1\n", "base.yaml")
    path = write_recipe("extends: base.yaml\na:\n  y: 2\n")
    origins = dict(places(compose(path)))
    assert origins["a", "x"].file == str(base) and origins["a", "x"].line == 2
    assert origins["a", "y"].file == str(path) and origins["a", "y"].line == 3
