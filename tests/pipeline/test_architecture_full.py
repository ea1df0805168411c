"""SmolLM3-3B as the published recipe has it: its size, its names, and how its weights begin."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from attrs import evolve
from transformers import SmolLM3Config, SmolLM3ForCausalLM

from smolrecipe import Model, Use
from smolrecipe.planning.make import make_plan
from smolrecipe.planning.plan import Plan
from smolrecipe.recipe.compose import compose
from smolrecipe.recipe.structure import structure
from smolrecipe_registry.discovery import load_registry
from smolrecipe_torchtitan import PretrainOptions
from smolrecipe_torchtitan.assemble import draft_model
from smolrecipe_torchtitan.hugging_face import hf_names
from smolrecipe_torchtitan.proofs.cpu_model import draft_on_cpu

PARAMETERS = 3_075_098_624
STAGES = ("pretrain-1", "pretrain-2", "pretrain-3", "long-context-32k", "long-context-64k")


@pytest.fixture(scope="module")
def plan() -> Plan:
    registry = load_registry()
    path = Path(__file__).parents[2] / "recipes" / "smollm3.yaml"
    return make_plan(structure(compose(path), path, registry.catalog), registry.catalog, registry.manager.hook)


def options_of(plan: Plan, stage: str) -> PretrainOptions:
    options = plan.by_name[stage].use.options
    assert isinstance(options, PretrainOptions)
    return options


@pytest.mark.parametrize("stage", STAGES)
def test_the_recipes_model_has_the_published_size_and_transformers_shapes(plan: Plan, stage: str) -> None:
    options = options_of(plan, stage)
    drafted = draft_model(options)  # for the layout that the recipe asks for, on 384 GPUs
    with torch.device("meta"):
        decoder = drafted.decoder.build()
        theirs = SmolLM3ForCausalLM(SmolLM3Config(**options.model.to_hf()))
    assert sum(parameter.numel() for parameter in decoder.parameters()) == PARAMETERS
    assert sum(parameter.numel() for parameter in theirs.parameters()) == PARAMETERS
    names = hf_names(drafted.parameters, drafted.draft.hf_parameters, tied=True)
    shapes = {names[name]: shape for name, shape in drafted.parameters.items() if name in names}
    assert shapes == {name: tuple(value.shape) for name, value in theirs.named_parameters()}
    assert drafted.restart_positions


@pytest.mark.parametrize(
    ("stage", "theta", "positions"),
    [
        ("pretrain-1", 5e4, 4096),
        ("pretrain-3", 5e4, 4096),
        ("long-context-32k", 2e6, 32768),
        ("long-context-64k", 5e6, 65536),
    ],
)
def test_published_rotation(plan: Plan, stage: str, theta: float, positions: int) -> None:
    config = SmolLM3Config(**options_of(plan, stage).model.to_hf())
    assert [index for index, rotates in enumerate(config.no_rope_layers) if not rotates] == list(range(3, 36, 4))
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": theta}
    assert config.max_position_embeddings == positions
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (16, 4, 128)


def test_initial_weights_of_36_layers(plan: Plan) -> None:
    """Normal with 0.02; projections back into the residual stream with 0.02 / sqrt(72) (nanotron); norms are 1.

    The recipe's components with narrower matrices, which are still large enough to measure a spread by.
    """
    model = options_of(plan, "pretrain-1").model
    narrow = {"hidden_size": 128, "head_dim": 16, "intermediate_size": 384, "vocab_size": 1024}
    uses = dict(model.components)
    for name, changes in (("decoder", narrow), ("attention", {"head_dim": 16})):
        uses[name] = Use(uses[name].component, evolve(uses[name].options, **changes))
    decoder = draft_on_cpu(Model(uses), 64).decoder.build()
    decoder.init_states()
    assert len(decoder.layers) == 36
    spread: dict[str, list[torch.Tensor]] = {}
    for name, parameter in decoder.named_parameters():
        if "norm" in name:
            assert (parameter == 1).all(), name
            continue
        into_residual = name.endswith(("attention.wo.weight", "feed_forward.w2.weight"))
        expected = 0.02 / math.sqrt(72) if into_residual else 0.02
        # The relative error of a standard deviation from n samples is 1 / sqrt(2 n); five of them.
        count = parameter.numel()
        assert parameter.std().item() == pytest.approx(expected, rel=5 / math.sqrt(2 * count)), name
        assert abs(parameter.mean().item()) < 5 * expected / math.sqrt(count), name
        spread.setdefault("into the residual" if into_residual else "others", []).append(parameter.detach().flatten())
    # All layers together tell 0.02 / sqrt(72) from 0.02 / sqrt(36) or 0.02 / 72 by hundreds of standard errors.
    assert torch.cat(spread["into the residual"]).std().item() == pytest.approx(0.02 / math.sqrt(72), rel=2e-3)
    assert torch.cat(spread["others"]).std().item() == pytest.approx(0.02, rel=2e-3)
    # No two matrices begin with the same numbers.
    firsts = [parameter.flatten()[0].item() for name, parameter in decoder.named_parameters() if "norm" not in name]
    assert len(set(firsts)) == len(firsts)


@pytest.mark.parametrize("backend", ["flex", "varlen", "flash"])
def test_a_model_for_gpus_is_checked_on_a_cpu(plan: Plan, backend: str) -> None:
    """Which kernel computes attention is no part of the model: checks draft it with one that runs anywhere."""
    components = dict(options_of(plan, "pretrain-1").model.components)
    docmask = components["docmask"]
    components["docmask"] = Use(docmask.component, evolve(docmask.options, backend=backend))
    draft = draft_on_cpu(Model(components), 64)
    assert hasattr(type(draft.decoder.layers[0].attention.inner_attention)._owner, "build_mask")
