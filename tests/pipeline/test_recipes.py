"""The recipes that ship: valid here, refused where they cannot run, and the numbers that the pipeline hangs on."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from smolrecipe.planning.make import make_plan
from smolrecipe.planning.plan import Plan
from smolrecipe.recipe.compose import compose
from smolrecipe.recipe.structure import structure
from smolrecipe_registry.discovery import load_registry

Run = Callable[..., subprocess.CompletedProcess[str]]
PRETRAINING = ("pretrain-1", "pretrain-2", "pretrain-3")


@pytest.fixture(scope="module")
def plans() -> dict[str, Plan]:
    registry = load_registry()
    folder = Path(__file__).parents[2] / "recipes"
    return {
        path.stem: make_plan(structure(compose(path), path, registry.catalog), registry.catalog, registry.manager.hook)
        for path in folder.glob("*.yaml")
    }


def options(plans: dict[str, Plan], recipe: str, stage: str) -> object:
    return plans[recipe].by_name[stage].use.options


def test_the_tiny_recipe_has_the_stages_of_the_published_one(plans: dict[str, Plan]) -> None:
    published = [stage.name for stage in plans["smollm3"].stages if stage.name != "evaluate-base"]
    assert [stage.name for stage in plans["smollm3-tiny"].stages] == published
    assert all(stage.devices.device == "cpu" for stage in plans["smollm3-tiny"].stages)


def test_three_pretraining_stages_are_one_trajectory(plans: dict[str, Plan]) -> None:
    for recipe in plans:
        stages = [options(plans, recipe, name) for name in PRETRAINING]
        assert len({stage.trajectory_steps for stage in stages}) == 1
        assert sum(stage.steps for stage in stages) == stages[0].trajectory_steps
        assert len({stage.schedule for stage in stages}) == 1
        assert [stage.carry for stage in stages[1:]] == ["everything", "everything"]


def test_published_sizes(plans: dict[str, Plan]) -> None:
    """Facts: 4,720,000 steps of 2,359,296 tokens on 384 GPUs; the last stage is all of the decay."""
    last = options(plans, "smollm3", "pretrain-3")
    for name in (*PRETRAINING, "long-context-32k", "long-context-64k"):
        stage = options(plans, "smollm3", name)
        assert stage.global_batch * stage.sequence_length == 2_359_296
    rate = last.schedule.component.factor
    assert rate(last.schedule.options, 1000, 4_720_000) == 0.5
    assert rate(last.schedule.options, 4_198_000, 4_720_000) == 1.0
    assert rate(last.schedule.options, 4_198_001 + 261_000, 4_720_000) == pytest.approx(0.5)
    assert plans["smollm3"].by_name["pretrain-1"].devices.processes == 384
    assert plans["smollm3"].by_name["long-context-64k"].devices.processes == 96


@pytest.mark.parametrize(
    ("stage", "sources", "total"),
    [
        ("pretrain-1", 41, 1.0),
        ("pretrain-2", 46, 1.00005),
        ("pretrain-3", 56, 1.00565),
        ("long-context-32k", 56, 1.0),
        ("long-context-64k", 57, 1.0),
    ],
)
def test_published_mixtures(plans: dict[str, Plan], stage: str, sources: int, total: float) -> None:
    """Facts: the number of sources of each mixture and what their weights sum to, to the digits published."""
    weights = options(plans, "smollm3", stage).data.options.weights
    assert len(weights) == sources
    assert sum(weights.values()) == pytest.approx(total, abs=1e-6)


def test_the_large_recipe_is_refused_here_in_one_sentence(
    smolrecipe: Run, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    result = smolrecipe("run", repository / "recipes" / "smollm3.yaml", check=2)
    (sentence,) = result.stderr.splitlines()
    assert "384 GPUs of 80 GiB" in sentence and "smollm3-tiny.yaml" in sentence


def test_shipped_recipes_are_found_by_name(smolrecipe: Run) -> None:
    stages = json.loads(smolrecipe("plan", "smollm3-tiny", "--json", check=0).stdout)["stages"]
    assert [stage["status"] for stage in stages] == ["to run"] * 13


BAD_INPUT = {
    "stages.sft.max_lenth=3": "unknown key 'max_lenth' in 'stages.sft' (stage kind 'sft'); did you mean 'max_length'?",
    "stages.apo.loss.beta=high": "'beta' must be a number, not the text 'high'",
    "stages.apo.loss.use=simpo": "unknown loss 'simpo'",
    "stages.pretrain-1.sequence_length=4096": "128",
    "stages.sft.from=tokens": "stage 'sft' needs a Hugging Face checkpoint from 'tokens', which has none",
    "stages.sft.from=apo": "the stages wait for each other",
    "stages.merge.base=apo@0.7": "publishes no checkpoint '0.7'",
}


@pytest.mark.parametrize("setting", BAD_INPUT)
def test_mistakes_are_sentences_before_anything_runs(smolrecipe: Run, setting: str, tmp_path: Path) -> None:
    result = smolrecipe("run", "smollm3-tiny", "--set", setting, check=2)
    assert BAD_INPUT[setting] in result.stderr
    assert not (tmp_path / "runs").exists()


def test_a_missing_dataset_is_told_before_anything_runs(smolrecipe: Run, tmp_path: Path) -> None:
    source = "stages.tokens.sources.prose={use: files, paths: [no/such.parquet]}"
    result = smolrecipe("run", "smollm3-tiny", "--set", source, check=2)
    assert "no file at" in result.stderr and "such.parquet" in result.stderr
    assert not (tmp_path / "runs").exists()
