"""The recipes that ship: valid here, refused where they cannot run, and the numbers that the pipeline hangs on."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from smolrecipe.planning.backtest import backtest
from smolrecipe.planning.colleague import questions
from smolrecipe.planning.decoder_size import parameters_of
from smolrecipe.planning.estimate import Part, estimate, total
from smolrecipe.planning.hardware import Assumptions
from smolrecipe.planning.make import make_plan
from smolrecipe.planning.plan import Plan
from smolrecipe.planning.workloads import workloads_of
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
    fetched = ("export-base", "evaluate-base", "evaluate-ruler", "evaluate-think", "evaluate-no-think")
    published = [stage.name for stage in plans["smollm3"].stages if stage.name not in fetched]
    tiny = [stage.name for stage in plans["smollm3-tiny"].stages]
    assert tiny[tiny.index("apo") - 1] == "reasoning-pairs"  # which the published one has read, and not made
    assert [name for name in tiny if name != "reasoning-pairs"] == published
    assert all(stage.devices.device == "cpu" for stage in plans["smollm3-tiny"].stages)


def test_the_135m_recipe_has_the_stages_of_the_published_one(plans: dict[str, Plan]) -> None:
    assert [stage.name for stage in plans["smollm3-135m"].stages] == [stage.name for stage in plans["smollm3"].stages]
    assert all(stage.devices.processes == 1 for stage in plans["smollm3-135m"].stages)
    assert parameters_of(options(plans, "smollm3-135m", "pretrain-1").model.to_hf()) == 134_515_008  # SmolLM2-135M's


def test_the_135m_recipe_takes_about_a_day_by_its_own_plan(plans: dict[str, Plan]) -> None:
    plan = plans["smollm3-135m"]
    workloads, assumed = workloads_of(plan), Assumptions()
    found = {stage.name: estimate(workloads[stage.name], stage.devices, assumed) for stage in plan.stages}
    training = [name for name in found if workloads[name].row_length is not None]
    assert len(training) == 8 and all(found[name] is not None for name in training)
    left = total(
        Part(name=stage.name, workload=workloads[stage.name], devices=stage.devices, estimate=found[stage.name])
        for stage in plan.stages
    )
    low, high = left.between(left.hours, backtest(assumed))
    assert 16 < low < left.hours < 24 < high < 28
    assert left.unknown == ()


def test_the_135m_recipe_keeps_the_published_proportions(plans: dict[str, Plan]) -> None:
    """Boundaries of the trajectory, and rows of the later stages as multiples of the first one's."""
    for recipe in ("smollm3", "smollm3-135m"):
        stages = [options(plans, recipe, name) for name in PRETRAINING]
        shares = [stage.steps / stages[0].trajectory_steps for stage in stages]
        assert shares == pytest.approx([0.731, 0.1585, 0.1106], abs=5e-4)
        rows = [options(plans, recipe, name).sequence_length for name in ("long-context-32k", "long-context-64k")]
        assert [row // stages[0].sequence_length for row in rows] == [8, 16]


def test_the_135m_recipe_fetches_a_quarter_of_what_it_reads(plans: dict[str, Plan]) -> None:
    """More than four readings of a source would be asked about. The tokens of a row are those that the recipe tells."""
    of_a_row = {
        "fineweb-edu": 1034,
        "dclm": 1300,
        "pes2o": 1510,
        "wiki": 600,
        "stackexchange": 508,
        "finemath-3plus": 1589,
        "infiwebmath-3plus": 1475,
        "finemath-4plus": 1433,
        "infiwebmath-4plus": 1349,
        "megamath-text-code-block": 550,
        **dict.fromkeys(("fw2-fra", "fw2-spa", "fw2-deu", "fw2-ita", "fw2-por"), 700),
    }
    sources = options(plans, "smollm3-135m", "tokens").sources
    assert set(sources) == set(of_a_row)
    read = dict.fromkeys(of_a_row, 0.0)
    for name in (*PRETRAINING, "long-context-32k", "long-context-64k"):
        stage = options(plans, "smollm3-135m", name)
        weights = stage.data.options.weights
        assert sum(weights.values()) == pytest.approx(1)
        for source, weight in weights.items():
            read[source] += weight * stage.steps * stage.global_batch * stage.sequence_length
    for source, tokens in read.items():
        assert tokens / (sources[source].options.rows * of_a_row[source]) < 4, source


def test_one_node_computes_what_the_published_run_did(plans: dict[str, Plan]) -> None:
    """Another layout and nothing else: every stage has the digest that it has in smollm3.yaml, and fits 8 GPUs."""
    digests = {recipe: {stage.name: stage.digest for stage in plans[recipe].stages} for recipe in plans}
    assert digests["smollm3-8xh100"] == digests["smollm3"]
    assert {stage.devices.processes for stage in plans["smollm3-8xh100"].stages} == {1, 8}


def test_the_way_from_the_published_base_that_the_node_recipe_tells(
    smolrecipe: Run, repository: Path, tmp_path: Path
) -> None:
    """The recipe in the comment at its head, word for word."""
    text = (repository / "recipes" / "smollm3-8xh100.yaml").read_text()
    lines = [line.removeprefix("#   ") for line in text.splitlines() if line.startswith("#   ")]
    (tmp_path / "base.yaml").write_text("\n".join(lines))
    told = json.loads(smolrecipe("plan", tmp_path / "base.yaml", "--json", check=0).stdout)
    assert [stage["stage"] for stage in told["stages"]] == [
        *("SmolLM3-3B-Base", "mid-training", "sft", "apo", "merge", "export"),
        *("evaluate-think", "evaluate-no-think", "evaluate"),
    ]


def test_stages_pass_their_model_on(plans: dict[str, Plan]) -> None:
    found = workloads_of(plans["smollm3"])
    assert found["apo"].model == found["merge"].model == found["long-context-64k"].model
    assert found["export"].model["rope_parameters"]["rope_type"] == "yarn"
    assert found["merge"].model["rope_parameters"]["rope_type"] == "default"
    assert [found[name].last_step for name in PRETRAINING] == [3_450_000, 4_198_000, 4_720_000]


def test_what_is_asked_about_the_shipped_recipes(plans: dict[str, Plan]) -> None:
    """Only the mixture whose published weights sum to 1.00565."""
    hook = load_registry().manager.hook
    for recipe, plan in plans.items():
        asked = [problem.message for problem in questions(plan, workloads_of(plan), {}, 4.0, hook)]
        published = ["stage 'pretrain-3': the weights of its mixture sum to 1.0056, not to 1: each is divided by that"]
        assert asked == (published if recipe in ("smollm3", "smollm3-8xh100", "smollm3-synthetic") else [])


def test_the_synthetic_recipe_makes_anew_what_the_published_one_reads(plans: dict[str, Plan]) -> None:
    """Every other source, option and stage is the published recipe's; what is made is learned."""
    made, read = plans["smollm3-synthetic"], plans["smollm3"]
    new = {stage.name: stage.use.options for stage in made.stages if stage.use.name == "synthesize"}
    assert {stage.name for stage in made.stages} - set(new) == {stage.name for stage in read.stages}
    learned = {}
    for stage in ("sft", "apo"):
        ours, theirs = options(plans, "smollm3-synthetic", stage), options(plans, "smollm3", stage)
        assert list(ours.data) == list(theirs.data)
        learned |= {name: use for name, use in ours.data.items() if use != theirs.data[name]}
    assert {use.options.from_.stage for use in learned.values()} == set(new)
    assert all("Qwen3_32B" in name for name in learned)
    assert {use.options.model for stage in new.values() for use in (stage.teacher,)} == {"Qwen/Qwen3-32B"}
    assert new["reasoning-pairs"].rejected.options.model == "Qwen/Qwen3-0.6B"
    assert all(stage.thinking == "think" for stage in new.values())
    workload = workloads_of(made)["reasoning-pairs"].generates
    assert workload.answers == 2 * 54_096  # facts: pairs_used


def test_three_pretraining_stages_are_one_trajectory(plans: dict[str, Plan]) -> None:
    for recipe in plans.keys() - {"smollm3-claims"}:
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
    assert [stage["status"] for stage in stages] == ["to run"] * 14


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


def test_the_seeds_of_a_claim_s_arms_belong_together(plans: dict[str, Plan]) -> None:
    claims = options(plans, "smollm3-claims", "claims").claims
    seeds = [
        [str(model).rpartition("-")[2] for model in models] for of in claims.values() for models in of.arms.values()
    ]
    assert seeds == [list("12345")] * 2 * len(claims)


def test_published_evaluations(plans: dict[str, Plan]) -> None:
    """Facts: 0.6 and 0.95 with 32,768 tokens in either mode, RULER at three lengths; a few numbers of each table."""
    think, no_think, base, ruler = (
        options(plans, "smollm3", f"evaluate-{name}") for name in ("think", "no-think", "base", "ruler")
    )
    assert (think.system_instruction, no_think.system_instruction) == ("/think", "/no_think")
    for chat in (think, no_think):
        assert chat.generation.arguments == {
            "do_sample": True,
            "temperature": 0.6,
            "top_p": 0.95,
            "max_gen_toks": 32768,
        }
        assert chat.apply_chat_template and chat.num_fewshot == 0 and set(chat.published) == set(chat.tasks)
    assert ruler.ruler.lengths == [32768, 65536, 131072]
    found = {
        (name, task): told.percent["SmolLM3-3B"]
        for name, of in (("think", think), ("no_think", no_think), ("base", base), ("ruler", ruler))
        for task, told in of.published.items()
    }
    assert found["think", "aime25"] == 36.7 and found["no_think", "aime25"] == 9.3
    assert found["base", "gsm8k"] == 67.63 and found["base", "global_mmlu_full_ru"] == 36.51
    assert found["ruler", "ruler @ 131072"] == 61.03
    assert set(base.published) < set(base.tasks)


def test_a_context_that_no_model_takes_is_refused_before_anything_runs(smolrecipe: Run) -> None:
    longer = "stages.evaluate-ruler.models=[long-context-64k]"
    result = smolrecipe("validate", "smollm3", "--set", longer, check=2)
    assert "contexts of 131072 tokens, and the model of 'long-context-64k' takes 65536" in result.stderr
