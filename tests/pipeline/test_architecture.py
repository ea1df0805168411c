"""The assembled decoder is transformers' SmolLM3: names, config, activations of every layer, logits.

Random weights go through a Hugging Face folder, as after training, and both models compute in float32. Bounds are
relative to the largest value of what is compared; float32 rounding over a few layers stays well below 1e-5.
"""

import json
import math
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, SmolLM3Config, SmolLM3ForCausalLM

from smolrecipe import Model, StageRef, Use
from smolrecipe_registry.discovery import load_registry
from smolrecipe_torchtitan import PretrainOptions
from smolrecipe_torchtitan.assemble import draft_model
from smolrecipe_torchtitan.checks import compose_hf_config
from smolrecipe_torchtitan.hugging_face import RecipeAdapter, hf_names

LENGTH, VOCAB = 48, 64
BOUND = 1e-5
DOCUMENTS = ([5, 1, 30, 12], [LENGTH])
"""Lengths of the documents in the two rows of the batch."""

DECODER = {"hidden_size": 64, "num_layers": 8, "num_heads": 4, "intermediate_size": 96, "vocab_size": VOCAB}
GQA = {"num_heads": 4, "num_kv_heads": 2}
ROPE = {"theta": 50_000.0, "max_positions": 64}
SHAPES = {
    "as SmolLM3": {"decoder": DECODER, "gqa": GQA, "rope": ROPE, "nope": {}, "docmask": {}},
    "8 query heads to one": {
        "decoder": DECODER,
        "gqa": {"num_heads": 8, "num_kv_heads": 1},
        "rope": ROPE,
        "nope": {},
        "docmask": {},
    },
    "heads wider than their share": {
        "decoder": DECODER | {"hidden_size": 48},
        "gqa": GQA | {"head_dim": 20},
        "rope": ROPE,
        "nope": {},
        "docmask": {},
    },
    "layers left over": {"decoder": DECODER | {"num_layers": 6}, "gqa": GQA, "rope": ROPE, "nope": {}, "docmask": {}},
    "untied": {"decoder": DECODER | {"tie_embeddings": False}, "gqa": GQA, "rope": ROPE, "nope": {}, "docmask": {}},
    "every third, components in another order": {
        "decoder": DECODER | {"num_layers": 7},
        "docmask": {},
        "nope": {"every": 3},
        "rope": ROPE,
        "gqa": GQA,
    },
    "every layer rotates": {"decoder": DECODER | {"num_layers": 2}, "gqa": GQA, "rope": ROPE, "docmask": {}},
    "decoder and masks alone": {"decoder": DECODER | {"num_layers": 2}, "docmask": {}},
    "stretched by YaRN": {
        "decoder": DECODER,
        "gqa": GQA,
        "rope": {"theta": 50_000.0, "max_positions": 16},
        "nope": {},
        "yarn": {"factor": 4.0, "original_max_positions": 16},
        "docmask": {},
    },
}


@pytest.fixture(scope="module")
def catalog():
    plugins = ("torchtitan", "gqa", "rope", "nope", "yarn", "docmask")
    return {component.name: component for component, _ in load_registry(plugins).catalog}


def assemble(catalog, components: dict[str, dict[str, Any]], length: int = LENGTH):
    """The model as a recipe lists it, and what the pretraining stage makes of it."""
    uses = {name: Use(catalog[name], catalog[name].options(**options)) for name, options in components.items()}
    for use in uses.values():
        assert not list(use.component.check(use.options))
    model = Model(uses)
    unused: Any = None
    options = PretrainOptions(
        model=model,
        tokenizer=StageRef("tokenizer"),
        data=unused,
        optimizer=unused,
        schedule=unused,
        steps=1,
        sequence_length=length,
        global_batch=1,
    )
    return model, draft_model(options)


def random_decoder(drafted):
    """The torchtitan model with random weights, norms included: weights of 1 would hide a swap."""
    torch.manual_seed(0)
    decoder = drafted.decoder.build()
    decoder.init_states()
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if "norm" in name:
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
            else:
                parameter.normal_(std=0.15)
    return decoder.eval()


def exported(model, drafted, decoder, folder):
    """The same weights as transformers loads them from a folder."""
    tied = drafted.decoder.enable_weight_tying
    names = hf_names(drafted.parameters, drafted.draft.hf_parameters, tied=tied)
    weights = RecipeAdapter(names).to_hf(decoder.state_dict())
    assert ("lm_head.weight" in weights) != tied
    save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / "model.safetensors")
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    (folder / "config.json").write_text(json.dumps(compose_hf_config(model) | special))
    loaded, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert type(loaded) is SmolLM3ForCausalLM
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return loaded.eval()


def batch():
    torch.manual_seed(1)
    tokens = torch.randint(VOCAB, (2, LENGTH))
    positions = torch.stack([torch.cat([torch.arange(length) for length in row]) for row in DOCUMENTS])
    return tokens, positions


def watch(modules):
    """What each module returns, in the order of calls."""
    seen: list[torch.Tensor] = []
    for module in modules:
        module.register_forward_hook(
            lambda module, args, output: seen.append(output[0] if isinstance(output, tuple) else output)
        )
    return seen


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_every_layer_and_the_logits_equal_transformers(shape, catalog, tmp_path):
    model, drafted = assemble(catalog, SHAPES[shape])
    decoder = random_decoder(drafted)
    loaded = exported(model, drafted, decoder, tmp_path)
    ours = watch([part for layer in decoder.layers.values() for part in (layer.attention, layer.feed_forward, layer)])
    theirs = watch([part for layer in loaded.model.layers for part in (layer.self_attn, layer.mlp, layer)])
    tokens, positions = batch()
    logits = decoder(tokens, positions=positions)
    # transformers finds the documents in position_ids where it gets no mask and keeps no cache.
    reference = loaded(tokens, position_ids=positions, use_cache=False).logits
    assert len(ours) == len(theirs) == 3 * SHAPES[shape]["decoder"]["num_layers"]
    for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        assert distance(mine, other) < BOUND, f"part {index % 3} of layer {index // 3}"
    assert distance(logits, reference) < BOUND


@torch.no_grad()
def test_the_comparison_notices_one_wrong_layer(catalog, tmp_path):
    """The same weights with the rotation at layers 0 and 3 exchanged, or without YaRN's factor, are far off."""
    model, drafted = assemble(catalog, SHAPES["stretched by YaRN"])
    decoder = random_decoder(drafted)
    loaded = exported(model, drafted, decoder, tmp_path)
    tokens, positions = batch()
    reference = decoder(tokens, positions=positions)
    layers = loaded.model.layers
    layers[0].self_attn.use_rope, layers[3].self_attn.use_rope = 0, 1
    assert distance(loaded(tokens, position_ids=positions, use_cache=False).logits, reference) > 100 * BOUND
    layers[0].self_attn.use_rope, layers[3].self_attn.use_rope = 1, 0
    loaded.model.rotary_emb.attention_scaling = 1.0
    assert distance(loaded(tokens, position_ids=positions, use_cache=False).logits, reference) > 100 * BOUND


@torch.no_grad()
def test_documents_of_a_row_do_not_know_of_each_other(catalog):
    """Other tokens in one document do not change one bit of another's logits; nor do later tokens of the same."""
    _, drafted = assemble(catalog, SHAPES["as SmolLM3"])
    assert drafted.restart_positions
    decoder = random_decoder(drafted)
    tokens, positions = batch()
    before = decoder(tokens, positions=positions)
    changed = tokens.clone()
    changed[0, 6:20] = (changed[0, 6:20] + 1) % VOCAB
    after = decoder(changed, positions=positions)
    same = (after[0] == before[0]).all(dim=-1)
    assert same[:6].all()
    assert same[36:].all()
    assert not same[6:36].any()
    assert torch.equal(after[1], before[1])


def test_initial_weights_keep_their_spread_through_the_components(catalog):
    """Normal with 0.02; projections back into the residual stream with 0.02 / sqrt(2 * layers) (nanotron)."""
    wide = {"hidden_size": 256, "intermediate_size": 512}
    _, drafted = assemble(catalog, SHAPES["as SmolLM3"] | {"decoder": DECODER | wide})
    decoder = drafted.decoder.build()
    decoder.init_states()
    for name, parameter in decoder.named_parameters():
        if "norm" in name:
            assert (parameter == 1).all(), name
            continue
        into_residual = name.endswith(("attention.wo.weight", "feed_forward.w2.weight"))
        expected = 0.02 / math.sqrt(16) if into_residual else 0.02
        # The relative error of a standard deviation from n samples is 1 / sqrt(2 n); five of them.
        assert parameter.std().item() == pytest.approx(expected, rel=5 / math.sqrt(2 * parameter.numel())), name


def test_the_full_model_is_smollm3_3b(catalog):
    smollm3 = {
        "decoder": {
            "hidden_size": 2048,
            "num_layers": 36,
            "num_heads": 16,
            "intermediate_size": 11008,
            "vocab_size": 128256,
        },
        "gqa": {"num_heads": 16, "num_kv_heads": 4},
        "rope": {"theta": 5e6, "max_positions": 65536},
        "nope": {},
        "docmask": {},
    }
    model, drafted = assemble(catalog, smollm3, length=65536)
    with torch.device("meta"):
        decoder = drafted.decoder.build()
        theirs = SmolLM3ForCausalLM(SmolLM3Config(**compose_hf_config(model)))
    assert sum(parameter.numel() for parameter in decoder.parameters()) == 3_075_098_624
    assert sum(parameter.numel() for parameter in theirs.parameters()) == 3_075_098_624
    names = hf_names(drafted.parameters, drafted.draft.hf_parameters, tied=True)
    shapes = {names[name]: shape for name, shape in drafted.parameters.items() if name in names}
    assert shapes == {name: tuple(value.shape) for name, value in theirs.named_parameters()}
    config = theirs.config
    assert [index for index, rotates in enumerate(config.no_rope_layers) if not rotates] == list(range(3, 36, 4))
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 5e6}
    assert config.max_position_embeddings == 65536
