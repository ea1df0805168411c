"""The kit's checks of stages, before they run and with example recipes: each damage is reported by its own check."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve, frozen

from smolrecipe import Artifact, Devices, StageKind, option
from smolrecipe.testing import examples, stages
from smolrecipe.testing.contract import Check, ContractError, checks_of
from smolrecipe_registry.discovery import load_registry

Plant = Callable[..., Path]


def reports(checks: Iterable[Check]) -> dict[str, str]:
    """The checks that report something, with what they say."""
    found = {}
    for check in checks:
        try:
            check.run()
        except ContractError as error:
            found[check.name] = str(error)
    return found


@frozen(kw_only=True)
class Options:
    reference: str = option(default="", doc="what it brings in")


GOOD = StageKind(
    name="good",
    summary="a stage",
    options=Options,
    run=lambda options, context: Artifact(),
    produces=lambda options: {"hf-model": True, "hf-model@0.5": True, "tokenizer": "this stage trains no tokenizer"},
    devices=lambda options: Devices(processes=2, device="cuda", memory_gib=80),
    imports=lambda reference: Options(reference=reference),
)
PRODUCES = "what it produces is named, or a reason given"
DEVICES = "it says which devices it needs"
OUTSIDE = "a model from outside becomes its options"


class TestBeforeItRuns:
    def test_a_good_stage_kind_passes(self) -> None:
        assert reports(stages.checks(GOOD, Options())) == {}

    @pytest.mark.parametrize(
        ("change", "check", "sentence"),
        [
            ({"produces": lambda options: ["hf-model"]}, PRODUCES, "['hf-model'], which is no mapping"),
            ({"produces": lambda options: {"HF Model": True}}, PRODUCES, "produces 'HF Model': name it as"),
            ({"produces": lambda options: {3: True}}, PRODUCES, "produces 3: name it as"),
            ({"produces": lambda options: {"hf-model@0.5": True}}, PRODUCES, "whether it produces 'hf-model'"),
            ({"produces": lambda options: {"hf-model": False}}, PRODUCES, "says False of 'hf-model'"),
            ({"produces": lambda options: {"hf-model": ""}}, PRODUCES, "says '' of 'hf-model'"),
            ({"produces": lambda options, seen=[]: {f"t{len(seen.append(1) or seen)}": True}}, PRODUCES, "each time"),
            ({"devices": lambda options: {"processes": 1}}, DEVICES, "return smolrecipe.Devices"),
            ({"devices": lambda options: Devices(processes=0)}, DEVICES, "asks for 0 processes on 'cpu'"),
            ({"devices": lambda options: Devices(processes=1.5)}, DEVICES, "asks for 1.5 processes"),
            ({"devices": lambda options: Devices(device="tpu")}, DEVICES, "on 'tpu'"),
            ({"devices": lambda options: Devices(memory_gib=0)}, DEVICES, "sized for 0 GiB"),
            ({"imports": lambda reference: reference}, OUTSIDE, "which is no Options"),
            ({"check": lambda options: ["not this one"]}, OUTSIDE, "refuses a model from outside, 'org/name'"),
        ],
    )
    def test_each_damage_is_reported_by_its_check(self, change: dict[str, Any], check: str, sentence: str) -> None:
        found = reports(stages.checks(evolve(GOOD, **change), Options()))
        assert list(found) == [check]
        assert sentence in found[check]


STAGE = """
import json
import pathlib
import time

from attrs import frozen

import smolrecipe
from smolrecipe import Artifact, StageError, StageKind, StageRef, option


@frozen(kw_only=True)
class Options:
    words: int = option(at_least=1, doc="how many words it adds")
    from_: StageRef | None = option(default=None, needs="tokens", doc="a stage whose words it adds to")


def run(options, context):
    state = context.folder / "state.json"
    before = []
    if options.from_:
        before = json.loads((context.input(options.from_, "tokens") / "words.json").read_text())
    words = json.loads(state.read_text()) if state.exists() else list(before)
    while len(words) < len(before) + options.words:
        words.append(f"word {len(words)}")
        beside = context.folder / "state.new"
        beside.write_text(json.dumps(words))
        beside.replace(state)
        context.progress(len(words) - len(before), options.words)
        time.sleep(0.01)
    (context.folder / "tokens").mkdir(exist_ok=True)
    (context.folder / "tokens" / "words.json").write_text(json.dumps(words))
    state.unlink(missing_ok=True)
    return Artifact(summary={"words": len(words)})


@smolrecipe.hookimpl
def smolrecipe_stages():
    yield StageKind(name="write", summary="words", options=Options, run=run,
                    produces=lambda options: {"tokens": True, "hf-model": "words are no model"})
"""
BEGIN = '    state = context.folder / "state.json"\n'
END = "    state.unlink(missing_ok=True)\n"
STEP = "        words.append("
PROMISE = "produces=lambda options: {"
ONE = "name: words\nstages:\n  one: {use: write, words: 4}\n"
TWO = f"{ONE}  two: {{use: write, words: 2, from: one}}\n"
SIDE_BY_SIDE = f"{ONE}  two: {{use: write, words: 2}}\n"
RUNS = "examples/words.yaml: it runs"
PUBLISHES = "examples/words.yaml: stages publish what they promise"
WHOLE = "examples/words.yaml: artifacts are whole"
INSIDE = "examples/words.yaml: stages write in their own folder"
INPUTS = "examples/words.yaml: stages read the artifacts they name"
TWICE = "examples/words.yaml: the same twice"
KILLED = "examples/words.yaml: killed, it goes on to the same"


class TestWithExampleRecipes:
    def plant(self, plant: Plant, code: str = STAGE, recipe: str = TWO) -> None:
        plant("smolrecipe_planted", {"__init__.py": code, "examples/words.yaml": recipe}, plugin="planted")

    def test_a_good_stage_passes(self, plant: Plant) -> None:
        self.plant(plant)
        assert [check.name for check in examples.checks("planted")] == [
            *(RUNS, PUBLISHES, WHOLE, INSIDE, INPUTS, TWICE, KILLED)
        ]
        assert reports(examples.checks("planted")) == {}

    @pytest.mark.parametrize(
        ("recipe", "sentence"),
        [
            (ONE.replace("words: 4", "wodrs: 4"), "did you mean 'words'?"),
            (ONE.replace("use: write", "use: read"), "unknown stage kind 'read'"),
            (ONE.replace("words: 4", "words: 4, from: two"), "refers to 'two', which is no stage"),
            (f"{ONE}launcher: {{use: elsewhere}}\n", "unknown launcher 'elsewhere'"),
        ],
    )
    def test_an_example_that_is_no_recipe_is_reported_once(self, plant: Plant, recipe: str, sentence: str) -> None:
        self.plant(plant, recipe=recipe)
        found = reports(examples.checks("planted"))
        assert list(found) == [RUNS] and sentence in found[RUNS]

    @pytest.mark.parametrize(
        ("change", "recipe", "check", "sentence"),
        [
            ((BEGIN, BEGIN + "    raise StageError('never')\n"), ONE, RUNS, "stage 'one': never"),
            ((PROMISE, PROMISE + '"tokenizer": True, '), ONE, PUBLISHES, "produces 'tokenizer', and has no tokenizer/"),
            ((PROMISE, PROMISE + '"tokens@half": True, '), ONE, PUBLISHES, "has no checkpoints/half/tokens/"),
            (
                (
                    END,
                    END
                    + "    (context.folder / 'model').mkdir(exist_ok=True)\n"
                    + "    (context.folder / 'model' / 'x').touch()\n",
                ),
                ONE,
                PUBLISHES,
                "publishes model/ and does not say that it produces 'hf-model'",
            ),
            (
                (
                    END,
                    END + "    if before: (context.input(options.from_, 'tokens') / 'words.json').write_text('[]')\n",
                ),
                TWO,
                WHOLE,
                "tokens/words.json of one-",
            ),
            ((END, END + "    pathlib.Path('note.txt').touch()\n"), ONE, INSIDE, "work/note.txt"),
            ((END, END + "    (pathlib.Path.home() / 'note.txt').touch()\n"), ONE, INSIDE, "/home/note.txt"),
            ((END, END + "    (context.folder.parent / 'note.txt').touch()\n"), ONE, INSIDE, "/words/note.txt"),
            ((END, END + "    pathlib.Path(__file__).with_name('x.txt').touch()\n"), ONE, INSIDE, "x.txt"),
            (
                (
                    BEGIN,
                    BEGIN + "    if context.stage == 'two':\n"
                    "        next(context.folder.parent.glob('one-*')).joinpath('tokens/words.json').read_text()\n",
                ),
                SIDE_BY_SIDE,
                INPUTS,
                "stage 'two' (write) runs in the recipe, and fails where",
            ),
            (
                (
                    STEP,
                    "        peek = context.folder.parent.glob('one-*/tokens/words.json')\n"
                    "        words += ['x' for _ in peek if context.stage == 'two']\n" + STEP,
                ),
                SIDE_BY_SIDE,
                TWICE,
                "stage 'two' (write) was run twice with one digest, and differs: tokens/words.json",
            ),
            ((STEP, STEP + "str(time.time()) + "), ONE, TWICE, "stage 'one' (write) was run twice"),
            (
                (STEP, "        with (context.folder / 'journal.txt').open('a') as file: file.write('x')\n" + STEP),
                ONE,
                KILLED,
                "differs from one that ran through: journal.txt",
            ),
            (
                (BEGIN, BEGIN + "    with (context.folder / 'journal.txt').open('a') as file: file.write('started')\n"),
                ONE,
                KILLED,
                "was killed and run again, and differs from one that ran through: journal.txt",
            ),
            (
                (END, END.replace("missing_ok=True", "") + "    (context.folder / 'done').mkdir()\n"),
                ONE,
                KILLED,
                "does not go on:\none: goes on",
            ),
            (
                (BEGIN, BEGIN + "    if state.exists(): raise StageError('the folder is in use')\n"),
                ONE,
                KILLED,
                "does not go on:\none: goes on",
            ),
            (
                (
                    BEGIN,
                    BEGIN + "    early = context.folder.with_suffix('')\n    early.mkdir(exist_ok=True)\n",
                    END,
                    END + "    early.rmdir()\n",
                ),
                ONE,
                KILLED,
                "exists and was not published",
            ),
        ],
    )
    def test_each_damage_is_reported_by_its_check(
        self, plant: Plant, change: tuple[str, ...], recipe: str, check: str, sentence: str
    ) -> None:
        code = STAGE
        for old, new in zip(change[::2], change[1::2], strict=True):
            assert old in code
            code = code.replace(old, new)
        self.plant(plant, code, recipe)
        found = reports(examples.checks("planted"))
        assert list(found) == [check], found
        assert sentence in found[check]


def test_the_toy_plugin_ships_an_example_and_passes(toy_plugin: None) -> None:
    assert [path.name for path in examples.recipes_of("toy")] == ["count.yaml"]
    assert reports(examples.checks("toy")) == {}
    registry = load_registry(("toy",))
    kinds = [kind for kind, _ in registry.catalog if isinstance(kind, StageKind)]
    assert len(kinds) == 5
    for kind in kinds:
        assert reports(checks_of(kind, registry.catalog)) == {}, kind.name


def test_the_built_in_stage_kinds_pass() -> None:
    registry = load_registry()
    kinds = [kind for kind, _ in registry.catalog if isinstance(kind, StageKind)]
    assert kinds
    for kind in kinds:
        assert reports(checks_of(kind, registry.catalog)) == {}, kind.name
