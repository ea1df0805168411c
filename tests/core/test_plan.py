"""Plans: order, references, digests, and everything that can be refused before a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import smolrecipe
from smolrecipe import Devices, Problem
from smolrecipe.errors import RecipeError
from smolrecipe.planning.make import make_plan
from smolrecipe.planning.plan import Plan
from smolrecipe.recipe.compose import compose
from smolrecipe.recipe.structure import structure
from smolrecipe.running.machine import lacking, lacking_devices
from smolrecipe_registry.discovery import Registry, load_registry

Write = Callable[..., Path]
HEAD = "name: toy\nlauncher: {use: direct}\n"


@pytest.fixture
def registry(toy_plugin: None) -> Registry:
    return load_registry(("toy",))


@pytest.fixture
def plan(write_recipe: Write, registry: Registry) -> Callable[..., Plan]:
    def plan(text: str, *settings: str, name: str = "recipe.yaml") -> Plan:
        path = write_recipe(HEAD + text, name)
        return make_plan(
            structure(compose(path, settings), path, registry.catalog), registry.catalog, registry.manager.hook
        )

    return plan


@pytest.fixture
def problems(plan: Callable[..., Plan], tmp_path: Path) -> Callable[..., list[str]]:
    def problems(text: str) -> list[str]:
        with pytest.raises(RecipeError) as caught:
            plan(text)
        return [str(problem).removeprefix(f"{tmp_path}/recipe.yaml:") for problem in caught.value.problems]

    return problems


def test_parents_come_first_and_the_recipes_order_decides_the_rest(plan: Callable[..., Plan]) -> None:
    planned = plan(
        "stages:\n  last: {use: count, to: 1, from: first}\n"
        "  first: {use: count, to: 1}\n  other: {use: count, to: 1}\n"
    )
    assert [stage.name for stage in planned.stages] == ["first", "last", "other"]
    assert planned.by_name["last"].parents == ("first",)


def test_unknown_stages_get_a_near_miss_and_a_place(problems: Callable[..., list[str]]) -> None:
    assert problems("stages:\n  one: {use: count, to: 1}\n  two: {use: count, to: 1, from: onee}\n") == [
        "5:28: stage 'two' refers to 'onee', which is no stage; did you mean 'one'?"
    ]


def test_a_circle_is_named(problems: Callable[..., list[str]]) -> None:
    found = problems("stages:\n  a: {use: count, to: 1, from: b}\n  b: {use: count, to: 1, from: a}\n")
    assert len(found) == 1 and "wait for each other" in found[0]
    assert "a -> b -> a" in found[0] or "b -> a -> b" in found[0]


def test_an_artifact_that_nobody_makes_is_refused_with_the_reason(problems: Callable[..., list[str]]) -> None:
    text = "model: {m: {use: odd}}\nstages:\n  net: {use: build}\n  use: {use: use_model, from: net}\n"
    assert problems(text) == [
        "6:25: stage 'use' needs a Hugging Face checkpoint from 'net', which has none: "
        "model component 'm' has no Hugging Face counterpart"
    ]
    wrong_kind = problems("stages:\n  one: {use: count, to: 1}\n  use: {use: use_model, from: one}\n")
    assert "stage kind 'count' produces number" in wrong_kind[0]


def test_a_checkpoint_that_is_not_published_is_refused(problems: Callable[..., list[str]]) -> None:
    found = problems("stages:\n  one: {use: count, to: 1}\n  two: {use: count, to: 1, from: one@half}\n")
    assert "'one' publishes no checkpoint 'half'" in found[0]


def test_components_check_their_options(problems: Callable[..., list[str]]) -> None:
    assert problems("stages:\n  one: {use: count, to: 1, data: {w: {use: words, words: []}}}\n") == [
        "4:51: source 'words': 'words' is empty: name at least one"
    ]


def test_what_is_missing_here_leaves_a_recipe_valid(plan: Callable[..., Plan]) -> None:
    planned = plan("stages:\n  one: {use: count, to: 1, data: {w: {use: words, file: none.txt}}}\n")
    (problem,) = lacking(planned, planned.stages)
    assert problem.message.startswith("source 'words': there is no file") and problem.message.endswith("none.txt")
    assert problem.place is not None and (problem.place.line, problem.place.column) == (4, 35)
    assert lacking(planned, []) == []


def test_what_a_plugin_says_is_missing_is_told_in_one_line(plan: Callable[..., Plan]) -> None:
    planned = plan('stages:\n  one: {use: count, to: 1, data: {w: {use: words, file: "no\\nne\\u200e.txt"}}}\n')
    (problem,) = lacking(planned, planned.stages)
    assert problem.message.endswith("no\\nne\\u200e.txt") and problem.message.isprintable()


def test_plugins_may_refuse_a_plan(write_recipe: Write, toy_plugin: None) -> None:
    class Strict:
        @smolrecipe.hookimpl
        def smolrecipe_check_plan(self, plan: Plan) -> list[Problem]:
            return [Problem(f"no {stage.name} here", stage.place) for stage in plan.stages]

    registry = load_registry(("toy",), extra=[("strict", Strict())])
    path = write_recipe(HEAD + "stages:\n  one: {use: count, to: 1}\n")
    with pytest.raises(RecipeError, match=r"recipe\.yaml:4:3: no one here"):
        make_plan(structure(compose(path), path, registry.catalog), registry.catalog, registry.manager.hook)


STAGES = (
    "stages:\n  one: {use: count, to: 3, data: {w: {use: words, file: words.txt}}}\n"
    "  two: {use: count, to: 2, from: one}\n  three: {use: count, to: 1}\n"
)


def digests(planned: Plan) -> dict[str, str]:
    return {stage.name: stage.digest for stage in planned.stages}


@pytest.mark.parametrize(
    ("setting", "changed"),
    [
        ("stages.one.to=4", {"one", "two"}),
        ("stages.two.to=4", {"two"}),
        ("stages.one.data.w.words=[z]", {"one", "two"}),
        ("stages.one.layers.kind=deep", {"one", "two"}),
        ("stages.three.schedule={use: ramp}", {"three"}),
        ("stages.one.seconds=2", set()),
        ("stages.one.processes=7", set()),
        ("launcher.gpus=3", set()),
        ("name=other", set()),
        ("description=text", set()),
    ],
)
def test_exactly_the_stages_that_depend_on_a_value_change(
    plan: Callable[..., Plan], tmp_path: Path, setting: str, changed: set[str]
) -> None:
    (tmp_path / "words.txt").write_text("a")
    before, after = digests(plan(STAGES)), digests(plan(STAGES, setting))
    assert {name for name in before if before[name] != after[name]} == changed


def test_data_changes_a_digest_and_its_path_does_not(plan: Callable[..., Plan], tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("a")
    before = digests(plan(STAGES))
    moved = tmp_path / "elsewhere" / "words.txt"
    moved.parent.mkdir()
    moved.write_text("a")
    assert digests(plan(STAGES, name="elsewhere/recipe.yaml")) == before
    words.write_text("b")
    after = digests(plan(STAGES))
    assert {name for name in before if before[name] != after[name]} == {"one", "two"}


def test_a_changed_plugin_changes_the_digest(
    plan: Callable[..., Plan], registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "words.txt").write_text("a")
    before = digests(plan(STAGES))
    (provider,) = {provider for _, provider in registry.catalog}
    object.__setattr__(provider, "hash_source", lambda: "another source")
    after = digests(plan(STAGES))
    assert all(before[name] != after[name] for name in before)


def test_a_machine_without_the_gpus_is_told_in_one_sentence(plan: Callable[..., Plan]) -> None:
    text = "try_instead: small.yaml\nstages:\n  one: {use: count, to: 1, device: cuda, processes: 384}\n"
    planned = plan(text)
    (problem,) = lacking_devices(planned, planned.stages)
    assert problem.message == (
        "stage 'one' asks for 384 GPUs of 80 GiB, and launcher 'direct' finds none here; "
        "'small.yaml' is the same pipeline at a size for this machine"
    )
    enough = plan(text, "launcher.gpus=384")
    assert lacking_devices(enough, enough.stages) == []
    assert planned.stages[0].devices == Devices(processes=384, device="cuda", memory_gib=80)


def test_a_missing_engine_names_its_extra(plan: Callable[..., Plan], registry: Registry) -> None:
    planned = plan("stages:\n  one: {use: count, to: 1}\n")
    assert lacking(planned, planned.stages) == []
    component = planned.stages[0].use.component
    object.__setattr__(component, "requires", ("an_engine_that_is_not_there",))
    object.__setattr__(component, "extra", "engine")
    (problem,) = lacking(planned, planned.stages)
    assert problem.message == (
        "stage kind 'count' needs an_engine_that_is_not_there, which is not installed: pip install 'smolrecipe[engine]'"
    )


def test_components_come_after_those_whose_work_they_build_on(problems: Callable[..., list[str]]) -> None:
    text = "model:\n  twice: {use: doubled}\n  layers: {use: layers}\nstages:\n  a: {use: build}\n"
    assert problems(text) == [
        "4:3: model component 'doubled' builds on what 'layers' sets and is listed before it: list 'layers' first"
    ]


def test_one_of_several_things_is_enough(plan: Callable[..., Plan], problems: Callable[..., list[str]]) -> None:
    """A stage that goes on from a number or from a model takes either, and says what it lacks of both."""
    head = "model: {odd: {use: odd}}\nstages:\n  count: {use: count, to: 1}\n  built: {use: build}\n"
    assert plan(head + "  a: {use: take, from: count}\n").by_name["a"].parents == ("count",)
    (problem,) = problems(head + "  a: {use: take, from: built}\n")
    assert "needs a number or Hugging Face checkpoint from 'built', which has none: " in problem
    assert "model component 'odd' has no Hugging Face counterpart" in problem


def test_a_folder_is_known_by_what_is_in_it(plan: Callable[..., Plan], tmp_path: Path) -> None:
    def digest(folder: Path) -> str:
        return plan("stages:\n  a: {use: take, folder: FOLDER}\n".replace("FOLDER", str(folder))).by_name["a"].digest

    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "file.txt").write_text("content")
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    (tmp_path / "two" / "sub" / "file.txt").write_text("other content")
    assert digest(tmp_path / "one") != digest(tmp_path / "two")
    (tmp_path / "two" / "sub" / "file.txt").write_text("content")
    (tmp_path / "two" / "sub" / "file.txt").rename(tmp_path / "two" / "sub" / "renamed.txt")
    assert digest(tmp_path / "one") != digest(tmp_path / "two")
