"""Models from outside the recipe: what ``from: ./folder`` and ``from: org/name`` become."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import evolve

from smolrecipe.catalog import Catalog
from smolrecipe.errors import RecipeError
from smolrecipe.recipe.compose import compose
from smolrecipe.recipe.recipe import Recipe
from smolrecipe.recipe.structure import structure
from smolrecipe_registry.discovery import load_registry

Write = Callable[..., Path]
Run = Callable[..., subprocess.CompletedProcess[str]]
HEAD = "name: toy\nlauncher: {use: direct}\nstages:\n"


@pytest.fixture
def read(toy_plugin: None, write_recipe: Write) -> Callable[[str], Recipe]:
    def read(text: str) -> Recipe:
        path = write_recipe(HEAD + text)
        return structure(compose(path), path, load_registry(("toy",)).catalog)

    return read


def test_each_becomes_a_stage_named_after_its_last_part(read: Callable[[str], Recipe], tmp_path: Path) -> None:
    recipe = read(
        "  a: {use: count, to: 1, from: ./base}\n  b: {use: count, to: 1, from: org/base@v1.0}\n"
        "  c: {use: count, to: 1, from: org/base@v1.0}\n  d: {use: count, to: 1, from: org/base}\n"
        "  base: {use: count, to: 1}\n"
    )
    assert {name: use.options.reference for name, use in recipe.stages.items() if use.name == "bring_in"} == {
        "base-2": str(tmp_path / "base"),
        "base-3": "org/base@v1.0",
        "base-4": "org/base",
    }
    assert [str(recipe.stages[name].options.from_) for name in "abcd"] == ["base-2", "base-3", "base-3", "base-4"]
    assert str(recipe.place(("stages", "base-3"))) == f"{tmp_path}/recipe.yaml:5:26"


def test_a_folder_is_relative_to_the_file_that_names_it(
    write_recipe: Write, read: Callable[[str], Recipe], tmp_path: Path
) -> None:
    write_recipe("{use: count, to: 1, from: ../models/base}\n", "sub/stage.yaml")
    recipe = read("  a: {extends: sub/stage.yaml}\n")
    assert Path(recipe.stages["base"].options.reference).resolve() == tmp_path / "models" / "base"


def test_it_runs_as_any_stage_does(toy_plugin: None, write_recipe: Write, smolrecipe: Run) -> None:
    recipe = write_recipe(HEAD + "  a: {use: count, to: 1, from: org/base}\n")
    stages = json.loads(smolrecipe("run", recipe, "--json", check=0).stdout)
    assert [stage["stage"] for stage in stages["stages"]] == ["base", "a"]
    assert stages["measures"][0]["before"] == len("org/base")


def test_names_without_a_slash_are_stages(read: Callable[[str], Recipe]) -> None:
    recipe = read("  a: {use: count, to: 1, from: b@0.5}\n  b: {use: count, to: 1}\n")
    assert list(recipe.stages) == ["a", "b"] and recipe.stages["a"].options.from_.checkpoint == "0.5"


def test_without_exactly_one_plugin_for_it_the_recipe_is_refused(toy_plugin: None, write_recipe: Write) -> None:
    path = write_recipe(HEAD + "  a: {use: count, to: 1, from: org/base}\n")
    whole = load_registry(("toy",)).catalog
    offers = list(whole)

    def refused(catalog: Catalog) -> str:
        with pytest.raises(RecipeError) as caught:
            structure(compose(path), path, catalog)
        return str(caught.value)

    none, two = Catalog(), Catalog()
    for component, provider in offers:
        if component.name != "bring_in":
            none.add(component, provider)
        two.add(component, provider)
    kind = next(component for component, _ in offers if component.name == "bring_in")
    two.add(evolve(kind, name="fetch"), whole.provider(kind))
    assert f"{path}:4:26: 'org/base' is a model outside the recipe, and no installed plugin can bring it in" in refused(
        none
    )
    assert "stage kind 'bring_in' of plugin 'toy'" in refused(two) and "'fetch'" in refused(two)
