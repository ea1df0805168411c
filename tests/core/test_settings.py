"""``--set`` that reaches into lists: which entry is meant, what becomes of the others, and what is said of none."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from smolrecipe.errors import RecipeError
from smolrecipe.recipe.compose import compose
from smolrecipe.recipe.nodes import places, plain
from smolrecipe.recipe.sweep import variants_of

Write = Callable[..., Path]
Run = Callable[..., subprocess.CompletedProcess[str]]

LISTS = """\
trackers: [{use: tensorboard, messages: false}, {use: wandb, mode: offline}]
rows: [[1, 2], [3]]
none: []
"""


@pytest.mark.parametrize(
    ("settings", "key", "expected"),
    [
        (["trackers.1.mode=online"], "trackers",
         [{"use": "tensorboard", "messages": False}, {"use": "wandb", "mode": "online"}]),
        (["trackers.0.use=wandb"], "trackers", [{"use": "wandb"}, {"use": "wandb", "mode": "offline"}]),
        (["trackers.0={messages: true}"], "trackers",
         [{"use": "tensorboard", "messages": True}, {"use": "wandb", "mode": "offline"}]),
        (["trackers.0=null"], "trackers", [{"use": "wandb", "mode": "offline"}]),
        (["trackers.0=null", "trackers.0.mode=online"], "trackers", [{"use": "wandb", "mode": "online"}]),
        (["trackers.1.mode=null"], "trackers", [{"use": "tensorboard", "messages": False}, {"use": "wandb"}]),
        (["rows.0.1=7", "rows.1.0=8"], "rows", [[1, 7], [8]]),
        (["rows.0=9"], "rows", [9, [3]]),
    ],
)  # fmt: skip
def test_an_entry_is_named_by_its_number(
    write_recipe: Write, settings: list[str], key: str, expected: list[object]
) -> None:
    composed = plain(compose(write_recipe(LISTS), settings))
    assert composed == {**plain(compose(write_recipe(LISTS))), key: expected}


def test_what_is_set_is_its_own_origin_and_the_rest_keeps_its_own(write_recipe: Write) -> None:
    origins = dict(places(compose(write_recipe(LISTS), ["trackers.1.mode=online"])))
    assert str(origins["trackers", 1, "mode"]) == "--set trackers.1.mode"
    assert (origins["trackers", 1, "use"].line, origins["trackers", 0].line) == (1, 1)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("trackers.2.use=x", "'trackers' is a list of 2 entries, numbered 0 to 1, and has no entry '2'; did you mean "
         "'trackers.1' (use: wandb)? To add one, give the whole list: trackers=[...]"),
        ("trackers.wandb.mode=x", "no entry 'wandb'; did you mean 'trackers.1' (use: wandb)?"),
        ("trackers.tensorbord=x", "no entry 'tensorbord'; did you mean 'trackers.0' (use: tensorboard)?"),
        ("trackers.mode=x", "no entry 'mode', such as trackers.1"),
        ("trackers.00.use=x", "no entry '00', such as trackers.1"),
        ("trackers.-1.use=x", "no entry '-1', such as trackers.1"),
        ("trackers.\N{SUPERSCRIPT TWO}=x", "write '2'"),
        ("rows.1.1=x", "'rows.1' is a list of one entry, number 0, and has no entry '1'; did you mean 'rows.1.0'?"),
        ("none.0=x", "'none' is an empty list: to add to it, give it whole: none=[...]"),
        (f"rows.{'9' * 200}=x", "did you mean 'rows.1'?"),
    ],
)  # fmt: skip
def test_what_names_no_entry_is_refused_with_the_nearest(write_recipe: Write, setting: str, said: str) -> None:
    with pytest.raises(RecipeError) as refused:
        compose(write_recipe(LISTS), [setting])
    assert said in str(refused.value)
    assert str(refused.value).startswith("--set ")


def test_a_sweep_reaches_into_lists_too(write_recipe: Write) -> None:
    path = write_recipe("stages: {a: {parts: [{use: x, size: 1, more: 2}, {use: y}]}}\n")
    settings = ["stages.a.parts.0.size=5"]
    variants = variants_of(compose(path, settings), settings, ["stages.a.parts.0.use=x,z"])
    assert [plain(variant.node)["stages"]["a"]["parts"] for variant in variants] == [
        [{"use": "x", "size": 5, "more": 2}, {"use": "y"}],
        [{"use": "z", "size": 5}, {"use": "y"}],
    ]
    (dropped,) = variants[1].dropped
    assert "more=2 of 'x' is not taken over by 'z' (--set stages.a.parts.0.more=..." in dropped.message
    with pytest.raises(RecipeError, match=r"'stages\.a\.parts' is a list of 2 entries"):
        variants_of(compose(path, []), [], ["stages.a.parts.2.use=x,z"])


def test_from_the_command_line(toy_plugin: None, write_recipe: Write, smolrecipe: Run) -> None:
    recipe = write_recipe("name: r\nstages: {one: {use: count, to: 1}}\n")
    said = smolrecipe("validate", recipe, "--set", "trackers=[]", "--set", "trackers.0.use=wandb", check=2).stderr
    assert (
        said
        == "error: --set trackers.0.use: 'trackers' is an empty list: to add to it, give it whole: trackers=[...]\n"
    )
