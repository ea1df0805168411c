"""``smolrecipe plan`` as its user sees it: tokens, hours, cost, reasons, and what to ask about."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from smolrecipe.cli import plan_command, plan_tables, session
from smolrecipe.errors import RecipeError

Write = Callable[..., Path]
Run = Callable[..., subprocess.CompletedProcess[str]]

PLUGIN = """
from __future__ import annotations
from collections.abc import Mapping
import json
from attrs import frozen
import smolrecipe
from smolrecipe import *
from smolrecipe.stage import MODEL_FOLDER

MODEL = {"model_type": "llama", "hidden_size": 1024, "num_hidden_layers": 8, "intermediate_size": 4096,
         "vocab_size": 32000, "num_attention_heads": 8, "tie_word_embeddings": True,
         "rope_parameters": {"rope_theta": 50000.0}}

@frozen(kw_only=True)
class TrainOptions:
    steps: int | None = option(default=None, doc="steps")
    length: int = option(default=1000, doc="row")
    gpus: int = option(default=2, doc="GPUs", identity=False)
    device: str = option(default="cuda", doc="device", identity=False)
    from_: StageRef | None = option(default=None, needs="number", doc="before")
    schedule: Use[Schedule] | None = option(default=None, doc="schedule")
    data: Mapping[str, Use[Source]] = option(factory=dict, doc="learned")
    test: Mapping[str, Use[Source]] = option(factory=dict, doc="measured")
    model: bool = option(default=True, doc="whether it tells its model")
    at_most: bool = option(default=False, doc="bound")

def workload(options, parents):
    before = parents[options.from_.stage].last_step if options.from_ is not None else 0
    return Workload(
        steps=options.steps,
        last_step=before + options.steps if before is not None and options.steps else None,
        tokens_per_step=1_000_000,
        row_length=options.length,
        model=MODEL if options.model else None,
        at_most=options.at_most,
        trains_on={f"data.{name}": use for name, use in options.data.items()},
        measures_on={f"test.{name}": use for name, use in options.test.items()},
    )

def run(options, context):
    folder = context.folder / MODEL_FOLDER
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(MODEL))
    (context.folder / "number.json").write_text("1")
    return Artifact()

@smolrecipe.hookimpl
def smolrecipe_stages():
    yield StageKind(name="train", summary="train", options=TrainOptions, run=run, workload=workload,
                    produces=lambda options: {"number": True},
                    devices=lambda options: Devices(processes=options.gpus, device=options.device))

@frozen(kw_only=True)
class FallOptions:
    start: int = option(doc="where it begins to fall")
    end: int = option(doc="where it ends")

@smolrecipe.hookimpl
def smolrecipe_schedules():
    yield Schedule(name="fall", summary="fall", source="here", options=FallOptions,
                   factor=lambda o, step, steps: min(1.0, max(0.0, (o.end - step) / (o.end - o.start))))

@frozen(kw_only=True)
class PileOptions:
    name: str = option(doc="which")
    rows: int = option(default=1, doc="rows")

@smolrecipe.hookimpl
def smolrecipe_sources():
    yield Source(name="pile", summary="pile", options=PileOptions, read=lambda o: (), yields=lambda o: "text",
                 origins=lambda o: [o.name])

@smolrecipe.hookimpl
def smolrecipe_warn_of_plan(plan, workloads, published, most_epochs):
    for stage in plan.stages:
        if workloads[stage.name].row_length == 14:
            raise KeyError("a bug")
        if workloads[stage.name].row_length == 13:
            yield Problem(f"13 is no length; {most_epochs:g}; {sorted(published)}", stage.place)
"""
HEAD = "name: toy\nlauncher: {use: direct, gpus: 9}\nstages:\n"


@pytest.fixture
def shop(toy_plugin: None, plant: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, repository: Path) -> None:
    """A plugin whose stages say what they amount to, beside the toy plugin."""
    plant("smolrecipe_shop", {"__init__.py": PLUGIN}, plugin="shop")
    toys = repository / "tests" / "toy_plugin"
    import os

    monkeypatch.setenv("PYTHONPATH", f"{os.environ['PYTHONPATH']}{os.pathsep}{toys}")
    monkeypatch.setenv("SMOLRECIPE_PLUGINS", "toy,shop")


@pytest.fixture
def plan(shop: None) -> Callable[..., str]:
    """The command in this process, which has loaded its plugins only once: what it prints."""
    session._registry.cache_clear()
    runner = CliRunner()

    def plan(*arguments: str | Path) -> str:
        obj = session.Session(("toy", "shop"))
        found = runner.invoke(plan_command.plan, [*map(str, arguments)], obj=obj, standalone_mode=False)
        if found.exception is not None:
            raise found.exception
        return found.stdout

    yield plan
    session._registry.cache_clear()


@pytest.fixture
def told(plan: Callable[..., str], write_recipe: Write, tmp_path: Path) -> Callable[..., dict]:
    def told(stages: str, *arguments: str) -> dict:
        return json.loads(plan(write_recipe(HEAD + stages), "--json", "--runs", tmp_path / "runs", *arguments))

    return told


def warnings(told: dict) -> list[str]:
    return [warning["message"] for warning in told["warnings"]]


PARAMETERS = 32000 * 1024 + 8 * (4 * 1024**2 + 3 * 1024 * 4096 + 2 * 1024) + 1024
"""Counted by hand: one table, eight layers of full-width attention, gated network and norms, the last norm."""
FLOPS = 6 * (PARAMETERS + 8 * 1024 * 1000)
"""A token of a row of 1000: attention over half of it, scores and values."""


def test_hours_cost_and_what_they_rest_on(told: Callable[..., dict]) -> None:
    arguments = ("--mfu", "0.4", "--peak-tflops", "500", "--price", "2.5")
    plan = told("  a: {use: train, steps: 1000}\n  b: {use: train, from: a, steps: 500, gpus: 8}\n", *arguments)
    a, b = plan["stages"]
    assert (a["tokens"], a["steps"], a["row_length"], a["rope_theta"]) == (10**9, 1000, 1000, 50000)
    gpu_hours = 1e9 * FLOPS / (0.4 * 500e12) / 3600
    assert a["gpu_hours"] == pytest.approx(gpu_hours) and a["hours"] == pytest.approx(gpu_hours / 2)
    assert b["hours"] == pytest.approx(gpu_hours / 16) and b["cost_usd"] == pytest.approx(gpu_hours / 2 * 2.5)
    bar = plan["backtest"]
    assert a["hours_between"] == pytest.approx([a["hours"] * bar["low"], a["hours"] * bar["high"]])
    assert plan["left"]["cost_usd"] == pytest.approx(gpu_hours * 1.5 * 2.5)
    assert plan["assumptions"]["mfu"] == 0.4 and plan["assumptions"]["price"] == 2.5
    assert len(bar["anchors"]) >= 5 and all(anchor["source"] for anchor in bar["anchors"])


def test_the_named_gpu_brings_its_speed_and_its_price(told: Callable[..., dict]) -> None:
    recipe = "  a: {use: train, steps: 1000}\n"
    h100, a100 = (told(recipe, "--gpu", gpu)["stages"][0] for gpu in ("h100", "a100"))
    assert a100["hours"] / h100["hours"] == pytest.approx(989.5 / 312)
    assert a100["cost_usd"] / a100["gpu_hours"] == pytest.approx(1.30)
    assert h100["cost_usd"] / h100["gpu_hours"] == pytest.approx(3.00)


def test_tokens_that_only_the_data_knows(told: Callable[..., dict]) -> None:
    recipe = "  pre: {use: train, at_most: true}\n"
    plan = told(recipe)
    assert plan["stages"][0]["tokens"] is None and plan["left"]["not_known"] == ["pre"]
    plan = told(recipe, "--tokens", "pre=2.5e9")
    (stage,) = plan["stages"]
    assert (stage["tokens"], stage["steps"], stage["at_most"]) == (2_500_000_000, 2500, False)
    assert stage["hours"] > 0 and plan["left"]["not_known"] == []
    with pytest.raises(RecipeError, match=r"--tokens: the recipe has no stage 'per'; did you mean 'pre'\?"):
        told(recipe, "--tokens", "per=1e9")
    for wrong in ("pre", "pre=", "pre=-1", "pre=nan", "pre=1e19", "=3"):
        with pytest.raises(click.BadParameter, match="write STAGE=N"):
            told(recipe, "--tokens", wrong)


def test_what_is_published_is_not_paid_for_again(told: Callable[..., dict], tmp_path: Path, smolrecipe: Run) -> None:
    recipe = "  a: {use: train, device: cpu, steps: 10}\n  b: {use: train, from: a, steps: 10, model: false}\n"
    before = told(recipe)
    assert [stage["why"] for stage in before["stages"]] == ["would run: none yet", "would run: none yet"]
    assert before["stages"][1]["hours"] is None and before["left"]["not_known"] == ["b"]
    smolrecipe("run", tmp_path / "recipe.yaml", "--set", "stages.b.device=cpu", check=0)
    after = told(recipe)
    assert [stage["status"] for stage in after["stages"]] == ["published", "published"]
    assert after["left"]["hours"] == 0 and after["left"]["not_known"] == []
    # The options of 'b' do not tell its model; the artifact does.
    assert after["stages"][1]["rope_theta"] == 50000 and after["stages"][1]["hours"] > 0
    changed = told(recipe, "--set", "stages.a.steps=20")
    assert [stage["why"] for stage in changed["stages"]] == [
        "would run: steps 10 -> 20",
        "would run: a: steps 10 -> 20",
    ]
    two = told(recipe, "--set", "stages.b.steps=20", "--set", "stages.b.length=5")
    assert [stage["why"] for stage in two["stages"]] == ["published", "would run: steps 10 -> 20 and 1 more"]


def test_half_done_work_goes_on_and_is_not_paid_for_again(
    told: Callable[..., dict], tmp_path: Path, write_recipe: Write, plan: Callable[..., str]
) -> None:
    recipe = "  a: {use: train, steps: 1000}\n"
    (whole,) = told(recipe)["stages"]
    partial = Path(whole["folder"] + ".partial")
    partial.mkdir(parents=True)
    (partial / "metrics.jsonl").write_text('{"step": 300}\n{"checkpoint": 250}\n{"step": 310}\n')
    half = told(recipe)
    assert (half["stages"][0]["why"], half["stages"][0]["step"]) == ("goes on at step 250", 250)
    assert half["left"]["hours"] == pytest.approx(whole["hours"] * 0.75)
    assert "goes on at step 250" in plan(write_recipe(HEAD + recipe), "--runs", tmp_path / "runs")


def test_schedules_and_steps(told: Callable[..., dict]) -> None:
    early = told("  a: {use: train, steps: 1000, schedule: {use: fall, start: 500, end: 700}}\n")
    assert warnings(early) == [
        "stage 'a': the schedule 'fall' has come to its end at step 700 of 1,000: 300 steps more run at a rate of 0, "
        "at which nothing is learned"
    ]
    assert early["warnings"][0]["written"].endswith("recipe.yaml:4:32")
    late = told("  a: {use: train, steps: 1000, schedule: {use: fall, start: 500, end: 1500}}\n")
    assert len(warnings(late)) == 1 and "goes on until step 1,500" in warnings(late)[0]
    # A later stage counts on from the first: together they make the schedule's steps.
    both = told(
        "  a: {use: train, steps: 1000, schedule: {use: fall, start: 500, end: 1500}}\n"
        "  b: {use: train, from: a, steps: 500, schedule: {use: fall, start: 500, end: 1500}}\n"
    )
    assert warnings(both) == []


def test_training_on_what_is_measured_on(told: Callable[..., dict]) -> None:
    own = told(
        "  a: {use: train, steps: 1, data: {x: {use: pile, name: p}}, test: {y: {use: pile, name: p, rows: 5}}}\n"
    )
    assert warnings(own) == [
        "stage 'a' measures on 'test.y', whose rows may be those that 'data.x' of stage 'a' trains on: what it "
        "measures is then memory"
    ]
    before = told(
        "  a: {use: train, steps: 1, data: {x: {use: pile, name: p}}}\n"
        "  b: {use: train, steps: 1, from: a}\n"
        "  c: {use: train, steps: 1, from: b, test: {y: {use: pile, name: p}}}\n"
        "  d: {use: train, steps: 1, test: {y: {use: pile, name: p}}}\n"
        "  e: {use: train, steps: 1, from: b, test: {y: {use: pile, name: q}}}\n"
    )
    assert [message.split("'")[1] for message in warnings(before)] == ["c"]  # 'd' is made from nothing, 'e' has others
    toys = told(
        "  a: {use: train, steps: 1, data: {x: {use: words}}, test: {y: {use: words}, z: {use: words, words: [c]}}}\n"
    )
    assert [message.split("'")[3] for message in warnings(toys)] == ["test.y"]  # no origins: the same options


def test_plugins_ask_too_and_keep_nothing_from_running(
    told: Callable[..., dict], write_recipe: Write, plan: Callable[..., str], smolrecipe: Run
) -> None:
    recipe = "  a: {use: train, steps: 1, length: 13, device: cpu}\n"
    assert warnings(told(recipe, "--most-epochs", "3")) == ["13 is no length; 3; []"]
    path = write_recipe(HEAD + recipe)
    text = plan(path)
    assert f"warning: {path}:4:3: 13 is no length; 4; []" in text
    smolrecipe("run", path, check=0)
    assert warnings(told(recipe)) == ["13 is no length; 4; ['a']"]


def test_a_plugin_that_fails_in_asking_is_told_of(told: Callable[..., dict]) -> None:
    plan = told("  a: {use: train, steps: 1, length: 14}\n")
    assert warnings(plan) == ["plugin 'shop' could not say what it would ask about: KeyError: 'a bug'"]
    assert plan["stages"][0]["hours"] > 0


def test_a_sweep_pays_for_every_stage_once(
    told: Callable[..., dict], plan: Callable[..., str], write_recipe: Write
) -> None:
    recipe = "  a: {use: train, steps: 1000}\n  b: {use: train, from: a, steps: 10}\n"
    one = told(recipe)["left"]["hours"]
    a, b = (stage["hours"] for stage in told(recipe)["stages"])
    swept = told(recipe, "--sweep", "stages.b.steps=10,20")["left"]
    assert one == pytest.approx(a + b) and swept["hours"] == pytest.approx(a + b + 2 * b)
    text = plan(write_recipe(HEAD + recipe), "--sweep", "stages.b.steps=null,20", "--price", "1.25")
    assert "still to train: " in text and "$1.25 an hour" in text and "hours not known" in text
    known = told(recipe, "--sweep", "stages.b.steps=null,20", "--tokens", "b=1e9")["left"]
    assert known["not_known"] == [] and known["hours"] == pytest.approx(3 * a)
    with pytest.raises(RecipeError, match="the recipe has no stage 'c'"):
        told(recipe, "--sweep", "stages.b.steps=10,20", "--tokens", "c=1e9")


def test_the_tables(plan: Callable[..., str], write_recipe: Write) -> None:
    recipe = write_recipe(
        HEAD + "  pretrain: {use: train, steps: 3_450_000, gpus: 384}\n"
        "  tuned: {use: train, steps: 700, from: pretrain, at_most: true, length: 65536}\n"
        "  measured: {use: count, to: 1, from: tuned, device: cuda}\n"
    )
    text = plan(recipe)
    rows = {line.split()[0]: line.split() for line in text[text.index("what training takes") :].splitlines() if line}
    assert rows["pretrain"][1:6] == ["3.45T", "3.45M", "1000", "50k", "384"]
    assert rows["tuned"][1] == "<700M" and rows["tuned"][7].startswith("<")
    assert "measured" not in rows  # no training, so it is told apart
    assert "still to train: at most " in text and "(--mfu)" in text and "$3.00 an hour (--price)" in text
    assert "hours not estimated of what else runs on GPUs: measured" in text
    assert "error bar: the same estimate for published runs, -18% to +25%" in text
    assert "SmolLM3, 384 H100, 24 days: the default MFU" in text and "-19.9%" in text


def test_numbers_of_any_size_fit_their_columns(plan: Callable[..., str], write_recipe: Write) -> None:
    told = {7: "7", 9_999: "9999", 10_000: "10k", 999_999: "1M", 3_450_000: "3.45M", 8.14e12: "8.14T", 1e18: "1e+18"}
    assert {number: plan_tables.short(number) for number in told} == told
    assert max(len(plan_tables.short(10.0**power * 0.99996)) for power in range(1, 100)) <= 6
    recipe = write_recipe(HEAD + f"  a: {{use: train, steps: {2**63 - 1}}}\n")
    assert max(map(len, plan(recipe).splitlines())) <= 120
