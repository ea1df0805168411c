"""``smolrecipe diff``: what differs in meaning is told with its place and its consequences, and nothing else is."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

import smolrecipe as sr
from smolrecipe.cli.diff_text import print_comparison
from smolrecipe.comparing.changes import ABSENT
from smolrecipe.comparing.compare import Comparison, compare
from smolrecipe.comparing.sides import Side, side_of_folder, side_of_plan
from smolrecipe.errors import RecipeError
from smolrecipe.planning.make import make_plan
from smolrecipe.recipe.compose import compose
from smolrecipe.recipe.structure import structure
from smolrecipe_registry.discovery import Registry, load_registry

Write = Callable[..., Path]
Run = Callable[..., subprocess.CompletedProcess[str]]
HEAD = "name: toy\nlauncher: {use: direct}\n"


@frozen(kw_only=True)
class RateOptions:
    lr: float = sr.option(doc="peak rate")


@frozen(kw_only=True)
class BetaOptions:
    beta: float = sr.option(default=0.1, doc="scale")
    gamma: float = sr.option(default=1.0, doc="margin")


@frozen(kw_only=True)
class TrainOptions:
    steps: int = sr.option(doc="steps")
    global_batch: int = sr.option(doc="rows")
    sequence_length: int | None = sr.option(default=None, doc="tokens")
    max_length: int | None = sr.option(default=None, doc="tokens at most")
    optimizer: sr.Use[sr.Optimizer] = sr.option(doc="optimizer")
    schedule: sr.Use[sr.Schedule] | None = sr.option(default=None, doc="schedule")
    loss: sr.Use[sr.Loss] | None = sr.option(default=None, doc="loss")


class Training:
    """A plugin whose stages train, without an engine."""

    @sr.hookimpl
    def smolrecipe_stages(self) -> Any:
        yield sr.StageKind(
            name="train", summary="train", options=TrainOptions, run=lambda o, c: sr.Artifact(), produces=lambda o: {}
        )

    @sr.hookimpl
    def smolrecipe_optimizers(self) -> Any:
        for name in ("sgd", "lion"):
            yield sr.Optimizer(
                name=name, summary=name, options=RateOptions, factory=lambda o: None, groups=lambda o: ()
            )

    @sr.hookimpl
    def smolrecipe_losses(self) -> Any:
        for name in ("dpo_like", "apo_like"):
            yield sr.Loss(name=name, summary=name, options=BetaOptions, loss=lambda batch, options: None)


@pytest.fixture
def registry(toy_plugin: None) -> Registry:
    return load_registry(("toy",), extra=[("training", Training())])


@pytest.fixture
def side(write_recipe: Write, registry: Registry) -> Callable[..., Side]:
    def side(text: str, name: str = "a.yaml", *settings: str) -> Side:
        path = write_recipe(HEAD + text, name)
        plan = make_plan(
            structure(compose(path, settings), path, registry.catalog), registry.catalog, registry.manager.hook
        )
        return side_of_plan(plan, name, registry.catalog)

    return side


@pytest.fixture
def compared(side: Callable[..., Side]) -> Callable[..., Comparison]:
    def compared(a: str, b: str) -> Comparison:
        return compare(side(a, "a.yaml"), side(b, "b.yaml"))

    return compared


STAGES = (
    "stages:\n  one: {use: count, to: 3, pair: [0.0001, 2], layers: {count: 4, kind: deep}}\n"
    "  two: {use: count, to: 2, from: one}\n  three: {use: count, to: 1, from: two}\n"
)


def told(comparison: Comparison) -> list[tuple[str, str, Any, Any]]:
    return [(c.stage, ".".join(map(str, c.path)), c.a, c.b) for c in comparison.changes]


def reasons(comparison: Comparison) -> dict[str, list[tuple[str, str]]]:
    return {stage: [(reason.kind, reason.what) for reason in why] for stage, why in comparison.reasons.items()}


def test_what_is_written_otherwise_and_means_the_same_is_no_difference(
    write_recipe: Write, compared: Callable[..., Comparison]
) -> None:
    write_recipe("stages: {one: {use: count, to: 7, pair: [1e-4, 2.0]}, two: {use: count, to: 2}}\n", "base.yaml")
    other = (
        "extends: base.yaml\nstages:\n  three: {from: two, to: 1, use: count, flag: false}\n"
        "  two: {from: one}\n  one: {layers: {kind: deep, count: 4}, to: 3}\n"
    )
    comparison = compared(STAGES, other)
    assert comparison.same and not comparison.changes and not comparison.reasons


def test_an_option_is_told_with_both_values_and_places(compared: Callable[..., Comparison], tmp_path: Path) -> None:
    comparison = compared(STAGES, STAGES.replace("kind: deep", "kind: wide").replace("to: 2", "to: 2, flag: true"))
    assert told(comparison) == [("one", "layers.kind", "deep", "wide"), ("two", "flag", False, True)]
    kind, flag = comparison.changes
    assert str(kind.written_a) == f"{tmp_path}/a.yaml:4:66" and str(kind.written_b) == f"{tmp_path}/b.yaml:4:66"
    assert flag.written_a is None and str(flag.written_b) == f"{tmp_path}/b.yaml:5:28"
    assert reasons(comparison) == {
        "one": [("option", "layers.kind")],
        "two": [("option", "flag"), ("parent", "one")],
        "three": [("parent", "two")],
    }


def test_what_changes_no_result_is_told_apart(compared: Callable[..., Comparison]) -> None:
    other = STAGES.replace("to: 2,", "to: 2, seconds: 1, processes: 3,")
    comparison = compared(STAGES, other.replace("stages:", "trackers: [{use: file}]\nstages:"))
    assert [(stage, option) for stage, option, _, _ in told(comparison)] == [
        ("", "trackers"), ("two", "seconds"), ("two", "processes"),
    ]  # fmt: skip
    assert not any(change.has_effect for change in comparison.changes)
    assert not comparison.reasons and not comparison.same


def test_stages_are_added_removed_and_renamed(compared: Callable[..., Comparison]) -> None:
    other = STAGES.replace("one:", "first:").replace("from: one", "from: first").replace("three", "last")
    comparison = compared(
        STAGES + "  gone: {use: count, to: 9}\n", other + "  new: {use: build, model: {m: {use: odd}}}\n"
    )
    pairs = [(pair.a and pair.a.name, pair.b and pair.b.name) for pair in comparison.pairs]
    assert sorted(pairs, key=str) == sorted(
        [("one", "first"), ("two", "two"), ("three", "last"), ("gone", None), (None, "new")], key=str
    )
    assert comparison.changes == ()  # a reference to a stage by its other name is the same reference
    assert reasons(comparison) == {
        "one": [("name", "is called 'first' in B")],
        "two": [("parent", "one (called 'first' in B)")],
        "three": [("parent", "two")],
    }


def test_stages_of_one_kind_with_other_options_are_not_the_same(compared: Callable[..., Comparison]) -> None:
    comparison = compared("stages: {a: {use: count, to: 1}}\n", "stages: {b: {use: count, to: 2}}\n")
    assert [(pair.a is None, pair.b is None) for pair in comparison.pairs] == [(False, True), (True, False)]


TRAIN = (
    "stages:\n  apo: {use: train, steps: 10, global_batch: 4, max_length: 8, optimizer: {use: sgd, lr: 1e-3},\n"
    "        loss: {use: apo_like, beta: 0.05}}\n"
)


def test_a_component_is_exchanged_as_a_whole(
    compared: Callable[..., Comparison], capsys: pytest.CaptureFixture[str]
) -> None:
    comparison = compared(TRAIN, TRAIN.replace("{use: apo_like, beta: 0.05}", "{use: dpo_like}"))
    (change,) = comparison.changes
    assert change.path == ("loss",) and change.component == "loss" and change.has_effect
    assert change.a == {"use": "apo_like", "beta": 0.05, "gamma": 1.0} and change.b["beta"] == 0.1
    assert change.written_b is not None and (change.written_b.line, change.written_b.column) == (5, 16)
    print_comparison(comparison)
    text = capsys.readouterr().out
    # The default beta is not dpo_like's to hide: it is another than apo_like's. Their gamma is the same.
    assert "apo_like(beta=0.05)" in text and "dpo_like(beta=0.1)" in text and "gamma" not in text


def test_tokens_and_rates_follow(compared: Callable[..., Comparison], capsys: pytest.CaptureFixture[str]) -> None:
    longer = (
        TRAIN.replace("steps: 10", "steps: 1000").replace("1e-3", "3e-4").replace("max_length: 8", "max_length: 16")
    )
    comparison = compared(TRAIN, longer)
    a, b = comparison.facts["apo"]
    assert (a.tokens, a.at_most, a.length, a.peak_lr) == (10 * 4 * 8 * 2, True, 8, 1e-3)  # a pair is two rows
    assert (b.tokens, b.length, b.peak_lr) == (1000 * 4 * 16 * 2, 16, 3e-4)
    print_comparison(comparison)
    text = " ".join(capsys.readouterr().out.split())
    assert "apo <= 640 -> <= 128k 0.001 -> 0.0003 8 -> 16" in text and "in all <= 640 -> <= 128k" in text


def test_data_and_plugins_are_reasons_of_their_own(
    side: Callable[..., Side], registry: Registry, tmp_path: Path
) -> None:
    text = "stages: {a: {use: count, to: 1, data: {w: {use: words, file: words.txt}}}, b: {use: count, to: 1}}\n"
    (tmp_path / "words.txt").write_text("a")
    before = side(text)
    (tmp_path / "words.txt").write_text("b")
    assert reasons(compare(before, side(text))) == {"a": [("data", "data.w")]}
    provider = registry.catalog.provider(registry.catalog.get(sr.StageKind, "count"))
    object.__setattr__(provider, "hash_source", lambda: "another source")
    comparison = compare(before, side(text))
    assert reasons(comparison) == {
        "a": [("plugin", "'toy' (source)"), ("data", "data.w")], "b": [("plugin", "'toy' (source)")],
    }  # fmt: skip
    assert comparison.plugins["toy"][1] == ("1.0", "another source")
    object.__setattr__(provider, "version", "2.0")
    assert reasons(compare(before, side(text)))["b"] == [("plugin", "'toy' 1.0 -> 2.0")]


def test_where_a_file_lies_is_no_difference(side: Callable[..., Side], tmp_path: Path) -> None:
    text = "stages: {a: {use: take, folder: F}, w: {use: count, to: 1, data: {w: {use: words, file: F/x}}}}\n"
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("content")
    assert compare(side(text.replace("F", "one")), side(text.replace("F", "two"), "b.yaml")).same
    before = side(text.replace("F", "one"))
    longer = side(text.replace("F", "two").replace("to: 1", "to: 2"), "b.yaml")
    assert [change.path for change in compare(before, longer).changes] == [("to",)]
    (tmp_path / "two" / "x").write_text("another")
    assert [change.path for change in compare(before, side(text.replace("F", "two"), "b.yaml")).changes] == [
        ("folder",), ("data", "w", "file"),
    ]  # fmt: skip


def test_many_entries_are_one_line_and_the_same_change_of_several_stages_too(
    compared: Callable[..., Comparison], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ", ".join(f"w{index}: {{use: words}}" for index in range(40))
    a = f"stages:\n  one: {{use: count, to: 1, data: {{{words}}}}}\n  two: {{use: count, to: 1}}\n"
    b = "stages:\n  one: {use: count, to: 2}\n  two: {use: count, to: 2}\n"
    print_comparison(compared(a, b))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    (entries,) = [line for line in lines if "entries" in line]
    assert entries.startswith("  - data  40 entries: w0, w1, ") and entries.endswith("...  a.yaml:4")
    assert lines[lines.index("one, two") + 2].split() == ["to", "1", "2", "a.yaml:4", "|", "b.yaml:4"]


@pytest.mark.usefixtures("toy_plugin")
class TestRuns:
    def test_runs_and_recipes(self, write_recipe: Write, smolrecipe: Run, tmp_path: Path) -> None:
        recipe = write_recipe(HEAD + STAGES)
        smolrecipe("run", recipe, check=0)
        assert "nothing differs: 3 stages" in smolrecipe("diff", recipe, "runs/toy", check=0).stdout
        smolrecipe("run", recipe, "--runs", "others", "--set", "stages.two.to=5", check=0)
        result = smolrecipe("diff", "runs/toy", "others/toy", check=1)
        lines = [line.split() for line in result.stdout.splitlines()]
        assert ["to", "2", "5"] in lines and ["three", "what", "it", "is", "made", "from:", "two"] in lines
        assert ["two", "number", "3", "5", "8", "*", "higher"] in lines
        assert ["three", "number", "6", "9", "*", "higher"] in lines
        assert not any(line[:2] == ["one", "number"] for line in lines)
        told = json.loads(smolrecipe("diff", "runs/toy", "others/toy", "--json", check=1).stdout)
        assert not told["same"] and told["a"]["is"] == "run" and list(told["would_run_again"]) == ["two", "three"]
        (change,) = told["changes"]
        assert change == {
            "stage": "two", "option": "to", "component": None, "changes_results": True,
            "a": 2, "a_written": None, "b": 5, "b_written": None,
        }  # fmt: skip
        measured = [(m["stage"], m["measure"], m["a"]["after"], m["b"]["after"]) for m in told["measures"]]
        assert measured == [("two", "number", 5, 8), ("three", "number", 6, 9)]

    def test_artifacts_with_what_they_were_made_from(
        self, write_recipe: Write, smolrecipe: Run, tmp_path: Path
    ) -> None:
        recipe = write_recipe(HEAD + STAGES)
        smolrecipe("run", recipe, "--sweep", "stages.one.to=3,4", check=0)
        old, new = (
            next(p for p in (tmp_path / "runs/toy").glob("two-*") if json.loads((p / "number.json").read_text()) == n)
            for n in (5, 6)
        )
        told = json.loads(smolrecipe("diff", old, new, "--json", check=1).stdout)
        assert [(c["stage"], c["option"]) for c in told["changes"]] == [("one", "to")]
        assert list(told["would_run_again"]) == ["one", "two"]
        assert smolrecipe("diff", old, recipe, check=0).stdout.startswith(f"A  artifact {old}")
        assert smolrecipe("diff", new, recipe, check=1)
        newest = smolrecipe("diff", "runs/toy", new, check=0)
        assert "3 older artifacts of the same stages are left out" in newest.stderr
        shutil.copytree(new, tmp_path / "copy")
        copied = json.loads(smolrecipe("diff", old, "copy", "--json", check=1).stdout)
        assert copied["changes"] == [] and list(copied["would_run_again"]) == ["two"]
        assert copied["would_run_again"]["two"] == [{"kind": "parent", "what": "one"}]
        assert "is not beside it" in copied["b"]["notes"][0]

    def test_what_cannot_be_compared_exits_with_2(self, write_recipe: Write, smolrecipe: Run, tmp_path: Path) -> None:
        recipe = write_recipe(HEAD + STAGES)
        (tmp_path / "empty").mkdir()
        assert "neither a run nor an artifact" in smolrecipe("diff", recipe, "empty", check=2).stderr
        assert "no recipe 'nowhere'" in smolrecipe("diff", recipe, "nowhere", check=2).stderr
        smolrecipe("run", recipe, check=0)
        (artifact,) = (tmp_path / "runs/toy").glob("three-*")
        other = write_recipe(HEAD + "stages: {one: {use: count, to: 1}}\n", "other.yaml")
        assert "has no stage 'three'; it has one" in smolrecipe("diff", other, artifact, check=2).stderr
        (artifact / "stage.json").write_text("[]")
        assert "the record of the stage cannot be read" in smolrecipe("diff", recipe, "runs/toy", check=2).stderr

    def test_a_record_of_plugins_that_are_gone_is_compared_as_it_is(
        self, write_recipe: Write, smolrecipe: Run, tmp_path: Path, registry: Registry
    ) -> None:
        recipe = write_recipe(HEAD + STAGES)
        for runs, to in (("runs", 2), ("others", 5)):
            smolrecipe("run", recipe, "--runs", runs, "--set", f"stages.two.to={to}", check=0)
            for path in (tmp_path / runs).glob("*/*/stage.json"):
                path.write_text(path.read_text().replace('"use": "count"', '"use": "gone"'))
        a, b = (side_of_folder(tmp_path / runs / "toy", registry.catalog) for runs in ("runs", "others"))
        assert all(stage.use is None for stage in a.stages)
        comparison = compare(a, b)
        assert told(comparison) == [("two", "to", 2, 5)] and list(comparison.reasons) == ["two", "three"]

    def test_an_option_that_was_not_there_yet_is_no_difference(
        self, write_recipe: Write, smolrecipe: Run, tmp_path: Path, registry: Registry, side: Callable[..., Side]
    ) -> None:
        smolrecipe("run", write_recipe(HEAD + STAGES), check=0)
        for path in (tmp_path / "runs").glob("*/two-*/stage.json"):
            record = json.loads(path.read_text())
            del record["options"]["flag"]
            path.write_text(json.dumps(record))
        run = side_of_folder(tmp_path / "runs/toy", registry.catalog)
        assert told(compare(run, side(STAGES))) == []
        (change,) = compare(run, side(STAGES.replace("to: 2", "to: 2, flag: true"))).changes
        assert change.path == ("flag",) and change.a is ABSENT and change.b is True

    def test_a_sweep_block_is_left_out_with_a_note(self, write_recipe: Write, smolrecipe: Run) -> None:
        recipe = write_recipe(HEAD + STAGES + "sweep: {stages.two.to: [1, 2]}\n")
        result = smolrecipe("diff", recipe, write_recipe(HEAD + STAGES, "plain.yaml"), check=0)
        assert "its 'sweep' is left out" in result.stderr


def test_a_side_without_the_stage_is_refused(side: Callable[..., Side]) -> None:
    with pytest.raises(RecipeError, match="has no stage 'four'"):
        side(STAGES).only("four")
    assert [stage.name for stage in side(STAGES).only("two").stages] == ["one", "two"]


def test_smollm3_and_its_tiny_twin(smolrecipe: Run) -> None:
    """Numbers that are published: 3,075,098,624 parameters, 11.136T tokens in 4,720,000 steps."""
    told = json.loads(smolrecipe("diff", "smollm3", "smollm3-tiny", "--json", check=1).stdout)
    evaluations = ["evaluate-base", "evaluate-ruler", "evaluate-think", "evaluate-no-think"]  # of what is fetched
    assert sorted(told["only_in_a"]) == sorted([*evaluations, "export-base"])
    assert told["only_in_b"] == ["reasoning-pairs"] and told["renamed"] == []
    facts = told["facts"]
    assert facts["pretrain-1"]["a"]["parameters"] == 3_075_098_624
    assert sum(facts[f"pretrain-{n}"]["a"]["tokens"] for n in (1, 2, 3)) == 4_720_000 * 2_359_296
    assert facts["pretrain-1"]["a"]["curve"]["rises"] == pytest.approx(2000 / 4_720_000)
    assert facts["pretrain-1"]["a"]["curve"]["falls"] == pytest.approx(4_198_001 / 4_720_000, abs=1e-5)
    assert facts["apo"]["a"]["peak_lr"] == 1e-6 and facts["apo"]["b"]["peak_lr"] == 1e-4
    changed = {(change["stage"], change["option"]): change for change in told["changes"]}
    assert changed["tokenizer", ""]["component"] == "stage kind"
    width = changed["long-context-64k", "model.decoder.hidden_size"]
    assert (width["a"], width["b"]) == (2048, 128) and "smollm3-tiny.yaml:" in width["b_written"]
    assert not changed["pretrain-1", "parallelism.tensor_parallel"]["changes_results"]
    assert ("apo", "loss") not in changed  # the same loss in both
    text = smolrecipe("diff", "smollm3", "smollm3-tiny", check=1).stdout
    assert "8.14T -> 330k" in text and "3.08B -> 1.02M" in text and "evaluate-base (evaluate)" in text
    assert max(map(len, text.splitlines())) <= 120
