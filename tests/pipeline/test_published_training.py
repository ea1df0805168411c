"""Recipe ``smollm3`` trains as SmolLM3 was trained: rates, stages, weight decay, and what the sampler hands out.

Numbers are transcribed from the published configurations and from nanotron (branch smollm3), not taken from the recipe.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attrs import frozen
from transformers import SmolLM3Config, SmolLM3ForCausalLM

from smolrecipe import StageRef
from smolrecipe.planning.make import make_plan
from smolrecipe.recipe.compose import compose
from smolrecipe.recipe.structure import structure
from smolrecipe_data import mixture
from smolrecipe_data.mixture import Mixture, Place
from smolrecipe_registry.discovery import load_registry
from smolrecipe_torchtitan.assemble import draft_model

LAYERS = 36


@pytest.fixture(scope="module")
def stages() -> dict[str, Any]:
    """The options of every stage of the recipe."""
    registry = load_registry()
    path = Path(__file__).parents[2] / "recipes" / "smollm3.yaml"
    plan = make_plan(structure(compose(path), path, registry.catalog), registry.catalog, registry.manager.hook)
    return {stage.name: stage.use.options for stage in plan.stages}


# Learning rates


@frozen
class Published:
    """The learning-rate part of a published configuration, and the steps of the whole run that the stage is."""

    peak: float
    warmup: int
    decay_start: int
    decay_steps: int
    decay: str
    first: int
    last: int

    def rate(self, step: int) -> float:
        """nanotron's rule: lr_scheduler_builder with ``current_step`` = step; the rates end at 0."""
        if step <= self.warmup:
            return self.peak * step / self.warmup
        if step < self.decay_start:
            return self.peak
        if step < self.decay_start + self.decay_steps:
            done = step - self.decay_start
            if self.decay == "cosine":
                return self.peak * (1 + math.cos(math.pi * done / self.decay_steps)) / 2
            return self.peak * (self.decay_steps - done) / self.decay_steps
        return 0.0


TRAJECTORY = (2e-4, 2000, 4_198_001, 522_000, "linear")
PUBLISHED = {
    "pretrain-1": Published(*TRAJECTORY, first=1, last=3_450_000),
    "pretrain-2": Published(*TRAJECTORY, first=3_450_001, last=4_198_000),
    "pretrain-3": Published(*TRAJECTORY, first=4_198_001, last=4_720_000),
    "long-context-32k": Published(2e-5, 1000, 1000, 19_000, "cosine", first=1, last=20_000),
    "long-context-64k": Published(2e-5, 1000, 1000, 21_000, "cosine", first=1, last=22_000),
}
STEPS = {
    "pretrain-1": [1, 2, 1999, 2000, 2001, 3_450_000],
    "pretrain-2": [3_450_001, 3_800_000, 4_197_999, 4_198_000],
    "pretrain-3": [4_198_001, 4_198_002, 4_328_501, 4_459_001, 4_589_501, 4_719_999, 4_720_000],
    "long-context-32k": [1, 2, 999, 1000, 1001, 1002, 5750, 10_500, 15_250, 19_999, 20_000],
    "long-context-64k": [1, 2, 999, 1000, 1001, 1002, 6250, 11_500, 16_750, 21_999, 22_000],
}


def rate_of(stage: Any, step: int, steps: int) -> float:
    """The rate of a stage's update: its optimizer's peak times its schedule."""
    (peak,) = {group.settings["lr"] for group in stage.optimizer.component.groups(stage.optimizer.options)}
    return float(peak * stage.schedule.component.factor(stage.schedule.options, step, steps))


@pytest.mark.parametrize("name", PUBLISHED)
def test_rates_are_the_published_ones(stages: dict[str, Any], name: str) -> None:
    published, stage = PUBLISHED[name], stages[name]
    steps = stage.trajectory_steps or stage.steps
    for step in {*STEPS[name], *range(published.first, published.last, 9973)}:
        # float64 in another order of operations.
        assert rate_of(stage, step, steps) == pytest.approx(published.rate(step), rel=1e-12, abs=1e-20), step


def test_landmarks_of_the_trajectory(stages: dict[str, Any]) -> None:
    """The numbers themselves, so that the rule above is not the only witness."""
    at = {step: rate_of(stages["pretrain-3"], step, 4_720_000) for step in (1, 2000, 4_198_000, 4_198_001, 4_459_001)}
    assert at == pytest.approx({1: 1e-7, 2000: 2e-4, 4_198_000: 2e-4, 4_198_001: 2e-4, 4_459_001: 1e-4}, rel=1e-12)
    assert rate_of(stages["pretrain-3"], 4_720_000, 4_720_000) == pytest.approx(2e-4 / 522_000, rel=1e-9)
    assert rate_of(stages["long-context-32k"], 10_500, 20_000) == pytest.approx(1e-5, rel=1e-12)


def test_three_stages_are_one_trajectory_and_long_context_starts_anew(stages: dict[str, Any]) -> None:
    before = ""
    for name, published in PUBLISHED.items():
        stage = stages[name]
        assert stage.from_ == (StageRef(before) if before else None)
        assert stage.steps == published.last - published.first + 1
        if name.startswith("long"):
            assert stage.carry == "weights" and stage.trajectory_steps in (None, stage.steps)
        else:
            assert stage.carry == ("everything" if before else "weights")
            assert stage.trajectory_steps == 4_720_000
            assert stage.schedule == stages["pretrain-1"].schedule
            assert stage.optimizer == stages["pretrain-1"].optimizer
            assert stage.seed == 6
        before = name


# Weight decay

NANOTRON_NAMES = {
    "model.embed_tokens": "model.token_position_embeddings.pp_block.token_embedding",
    "lm_head": "model.token_position_embeddings.pp_block.token_embedding",  # tied: one parameter, under this name
    "model.norm": "model.final_layer_norm.pp_block",
    "self_attn.q_proj": "pp_block.attn.qkv_proj",
    "self_attn.k_proj": "pp_block.attn.qkv_proj",
    "self_attn.v_proj": "pp_block.attn.qkv_proj",
    "self_attn.o_proj": "pp_block.attn.o_proj",
    "mlp.gate_proj": "pp_block.mlp.gate_up_proj",
    "mlp.up_proj": "pp_block.mlp.gate_up_proj",
    "mlp.down_proj": "pp_block.mlp.down_proj",
    "input_layernorm": "pp_block.input_layernorm",
    "post_attention_layernorm": "pp_block.post_attention_layernorm",
}
"""Hugging Face's names of SmolLM3's parameters (in layers: behind ``model.layers.N.``) -> nanotron's."""

EXCLUDED = r".*token_embedding.*"
"""weight_decay_exclude_named_params of all five published configurations."""


def nanotron_decays(name: str) -> bool:
    """Whether nanotron decayed a parameter, by its Hugging Face name."""
    layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name)
    if layer:
        nanotron = f"model.decoder.{layer[1]}.{NANOTRON_NAMES[layer[2]]}.weight"
    else:
        nanotron = f"{NANOTRON_NAMES[name.removesuffix('.weight')]}.weight"
    return re.match(EXCLUDED, nanotron) is None


@pytest.fixture(scope="module")
def hugging_face_names() -> list[str]:
    """The parameters of transformers' own SmolLM3 at its published depth, the tied output projection among them."""
    with torch.device("meta"):
        model = SmolLM3ForCausalLM(SmolLM3Config(num_hidden_layers=LAYERS, pad_token_id=0))
    return [name for name, _ in model.named_parameters(remove_duplicate=False)]


def decay_of(stage: Any, name: str) -> float:
    groups = stage.optimizer.component.groups(stage.optimizer.options)
    return float(next(group.settings["weight_decay"] for group in groups if re.search(group.pattern, name)))


@pytest.mark.parametrize("name", PUBLISHED)
def test_weight_decay_reaches_what_it_reached_in_nanotron(
    stages: dict[str, Any], hugging_face_names: list[str], name: str
) -> None:
    stage = stages[name]
    expected = {parameter: 0.1 if nanotron_decays(parameter) else 0.0 for parameter in hugging_face_names}
    assert len(expected) == 2 + 1 + 9 * LAYERS
    assert {parameter for parameter, decay in expected.items() if decay == 0} == {
        "model.embed_tokens.weight",
        "lm_head.weight",
    }
    assert {parameter: decay_of(stage, parameter) for parameter in expected} == expected
    drafted = draft_model(stage)
    theirs = {ours: hf.replace("{}", "%d") for ours, hf in drafted.draft.hf_parameters.items()}
    checked = Counter()
    for parameter in drafted.parameters:  # torchtitan's names, which pretraining matches
        layer = re.search(r"layers\.(\d+)\.", parameter)
        hf = theirs[re.sub(r"layers\.\d+\.", "layers.{}.", parameter)]
        decay = expected[hf % int(layer[1]) if layer else hf]
        assert decay_of(stage, parameter) == decay, parameter
        checked[decay] += 1
    assert checked == {0.1: 1 + 9 * LAYERS, 0.0: len(drafted.parameters) - 1 - 9 * LAYERS}


# Mixtures

WEB = {"fineweb-edu", "dclm", "pes2o", "wiki", "cosmopedia-v2", "multilingual-wiki"}
CODE = {"stackexchange", "pull-requests", "kaggle", "jupyter-scripts", "github-issues", "opencodereasoning-4k"}
MATH = {
    "infiwebmath-3plus", "infiwebmath-4plus", "finemath-3plus", "finemath-4plus", "megamath-web-pro",
    "megamath-qa-qwen", "megamath-text-code-block", "openmathinstruct-2", "openmathreasoning-4k", "natural-reasoning",
    "tiny-gsm-mind-problem-solving", "tiny-gsm-mind-2students", "dolmino-gsm8k-synth", "dolmino-basic-math",
}  # fmt: skip
BLOG = {
    "pretrain-1": {"web": 85, "code": 12, "math": 3},
    "pretrain-2": {"web": 75, "code": 15, "math": 10},
    "pretrain-3": {"web": 63, "code": 24, "math": 13},
}
"""Percent; web with its other languages, code with Stack Exchange, which the blog counts so."""
SAMPLES = 1_000_000
BATCH, LENGTH = 576, 4096


def category(source: str) -> str:
    if source in WEB or source.startswith("fw2-"):
        return "web"
    if source in MATH:
        return "math"
    assert source in CODE or source.startswith(("stack-v2-", "stack-edu-")), source
    return "code"


class HugeStream:
    """Stands in for a source's token files: terabytes of documents of a thousand tokens, none of them written."""

    tokens = 4 * 10**12
    documents = 4 * 10**9

    def __init__(self, folder: Path, vocab_size: int | None = None) -> None:
        self.folder = folder

    def document_ends_from(self, targets: np.ndarray) -> np.ndarray:
        return (targets // 1000 + 1) * 1000


@pytest.fixture(scope="module")
def mixtures(stages: dict[str, Any]) -> dict[str, Mixture]:
    """The packer's own mixture of each stage, each started where the one before it ended."""
    made: dict[str, Mixture] = {}
    position = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixture, "TokenStream", HugeStream)
        for name in BLOG:
            stage = stages[name]
            assert (stage.sequence_length, stage.global_batch) == (LENGTH, BATCH)
            weights = stage.data.options.weights
            made[name] = Mixture(
                {source: Path(source) for source in weights},
                weights,
                sequence_length=LENGTH,
                seed=stage.seed,
                order_seed=stage.data.options.order_seed,
                start=position,
            )
            position = made[name].position(stage.steps * BATCH)
    return made


def counted(mixed: Mixture, first: int, samples: int) -> Counter[str]:
    """How many of some samples the sampler takes from each source."""
    return Counter(mixed.place(sample).source for sample in range(first, first + samples))


@pytest.mark.parametrize("name", BLOG)
def test_the_sampler_hands_out_each_source_by_its_weight(
    stages: dict[str, Any], mixtures: dict[str, Mixture], name: str
) -> None:
    """A million samples from the first on, and a million in the middle of the stage, of no whole number of blocks.

    A share may be 0.1 percentage points off; counted over whole blocks, that of a source with more than 1 % of the
    samples 0.1 % of itself.
    """
    weights = stages[name].data.options.weights
    total = sum(weights.values())
    block = mixtures[name].summary()["block"]
    whole = math.ceil(SAMPLES / block) * block
    middle = stages[name].steps * BATCH // 2 + 12_345
    for first, samples in ((0, whole), (middle, SAMPLES)):
        counts = counted(mixtures[name], first, samples)
        assert counts.keys() == weights.keys()
        shares = {source: counts[source] / samples for source in weights}
        asked = {source: weight / total for source, weight in weights.items()}
        off = {source: abs(shares[source] - asked[source]) for source in weights}
        assert max(off.values()) < 0.001, max(off, key=lambda source: off[source])
        if first == 0:
            for source in (source for source in weights if asked[source] > 0.01):
                assert off[source] < 0.001 * asked[source], source
        sums = Counter()
        for source, share in shares.items():
            sums[category(source)] += 100 * share
        for kind, claimed in BLOG[name].items():
            assert abs(sums[kind] - claimed) < 1.5, (kind, sums[kind])


def test_shares_of_other_weights_would_be_seen(stages: dict[str, Any], mixtures: dict[str, Mixture]) -> None:
    """The mixtures of the other stages are further off than the tests above allow."""
    counts = counted(mixtures["pretrain-2"], 0, SAMPLES)
    for other in ("pretrain-1", "pretrain-3"):
        weights = stages[other].data.options.weights
        assert max(abs(counts[source] / SAMPLES - weight) for source, weight in weights.items()) > 0.01


def test_a_stage_goes_on_where_the_stage_before_left_each_source(
    stages: dict[str, Any], mixtures: dict[str, Mixture]
) -> None:
    """nanotron continues each data folder; here also sources that a stage in between does not use."""
    read: Counter[str] = Counter()
    for name in BLOG:
        mixed, samples = mixtures[name], stages[name].steps * BATCH
        first: dict[str, Place] = {}
        for sample in range(400_000):
            place = mixed.place(sample)
            first.setdefault(place.source, place)
        assert first.keys() == stages[name].data.options.weights.keys()
        for source, place in first.items():
            assert place.position == read[source], (name, source)
        for source, weight in stages[name].data.options.weights.items():
            share = weight / sum(stages[name].data.options.weights.values())
            # A block that the stage ends in is a random part of 32768 samples at most.
            assert mixed.position(samples)[source] - read[source] == pytest.approx(
                share * samples * (LENGTH + 1), abs=1000 * (LENGTH + 1)
            )
        read = Counter(mixed.position(samples))
        last = [mixed.place(sample) for sample in range(samples - 1000, samples)]
        for source in {place.source for place in last}:
            assert max(p.position for p in last if p.source == source) + LENGTH + 1 == read[source]
    # 8.14T, 1.76T and 1.23T tokens, derived from the steps; a row has one token more than it trains on.
    assert sum(read.values()) / (LENGTH + 1) * LENGTH == 11_135_877_120_000
