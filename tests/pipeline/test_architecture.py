"""The assembled decoder is transformers' SmolLM3: names, config, activations of every layer, logits.

Random weights go through a Hugging Face folder, as after training, and both models compute in float32. Bounds are
relative to the largest value of what is compared; float32 rounding over a few layers stays well below 1e-5. The same
comparison is shown to fail for each mistake that it is there to find.
"""

import copy
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchtitan.models.common.attention import FlexAttention
from transformers import AutoModelForCausalLM, SmolLM3Config, SmolLM3ForCausalLM

from smolrecipe import Model, StageRef, TokenRow, Use
from smolrecipe.verifying.from_config import read_model
from smolrecipe_registry.discovery import load_registry
from smolrecipe_torchtitan import PretrainOptions
from smolrecipe_torchtitan.assemble import draft_model
from smolrecipe_torchtitan.hugging_face import RecipeAdapter, hf_names
from smolrecipe_torchtitan.proofs.model import distance, watched
from smolrecipe_torchtitan.samples import labels_of

LENGTH, VOCAB = 48, 64
BOUND = 1e-5
DOCUMENTS = ([5, 1, 30, 12], [LENGTH])
"""Lengths of the documents in the two rows of the batch."""

DECODER = {"hidden_size": 64, "num_layers": 8, "num_heads": 4, "intermediate_size": 96, "vocab_size": VOCAB}
GQA = {"num_heads": 4, "num_kv_heads": 2}
ROPE = {"theta": 50_000.0, "max_positions": 64}
SMOLLM3 = {"decoder": DECODER, "gqa": GQA, "rope": ROPE, "nope": {}, "docmask": {}}


def sized(decoder: dict[str, Any], **others: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """SmolLM3's components with another decoder, and what else is other."""
    return SMOLLM3 | {"decoder": DECODER | decoder} | others


SHAPES: dict[str, dict[str, dict[str, Any]]] = {
    "as SmolLM3": SMOLLM3,
    "6 query heads to 2": sized({"hidden_size": 96, "num_heads": 6}, gqa={"num_heads": 6, "num_kv_heads": 2}),
    "8 query heads to 1": sized({}, gqa={"num_heads": 8, "num_kv_heads": 1}),
    "as many keys as queries": sized({"num_layers": 4}, gqa={"num_heads": 4, "num_kv_heads": 4}),
    "heads wider than their share": sized({"hidden_size": 48}, gqa=GQA | {"head_dim": 20}),
    "heads narrower than their share, untied": sized({"tie_embeddings": False}, gqa=GQA | {"head_dim": 6}),
    "two layers left over": sized({"num_layers": 6}),
    "one layer left over, 6 to 2, untied": sized(
        {"hidden_size": 96, "num_heads": 6, "num_layers": 5, "tie_embeddings": False},
        gqa={"num_heads": 6, "num_kv_heads": 2, "head_dim": 8},
    ),
    "untied": sized({"tie_embeddings": False}),
    "every third, components in another order": {
        "decoder": DECODER | {"num_layers": 7},
        "docmask": {},
        "nope": {"every": 3},
        "rope": ROPE,
        "gqa": GQA,
    },
    "no layer rotates": sized({"num_layers": 3}, nope={"every": 1}),
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
    (folder / "config.json").write_text(json.dumps(model.to_hf() | special))
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


def worst(decoder, loaded, ids_and_positions, **how) -> tuple[float, str]:
    """How far both models are apart at most, and where they first are by more than the bound."""
    tokens, positions = ids_and_positions
    with watched(
        [part for layer in decoder.layers.values() for part in (layer.attention, layer.feed_forward, layer)]
    ) as ours:
        logits = decoder(tokens, positions=positions)
    with watched([part for layer in loaded.model.layers for part in (layer.self_attn, layer.mlp, layer)]) as theirs:
        # transformers finds the documents in position_ids where it gets no mask and keeps no cache.
        reference = loaded(tokens, position_ids=positions, use_cache=False, **how).logits
    assert len(ours) == len(theirs) == 3 * len(loaded.model.layers)
    names = [f"layer {index // 3}, part {index % 3}" for index in range(len(ours))] + ["logits"]
    apart = [distance(mine, other) for mine, other in zip([*ours, logits], [*theirs, reference], strict=True)]
    first = next((name for name, value in zip(names, apart, strict=True) if value > BOUND), "nowhere")
    return max(apart), first


def turn(decoder, drafted, loaded, times: float) -> None:
    """Give both models a rotary base so many times larger."""
    for layer, config in zip(decoder.layers.values(), drafted.decoder.layers, strict=True):
        layer.attention.rope = replace(config.attention.rope, theta=config.attention.rope.theta * times).build()
    changed = copy.deepcopy(loaded.config)
    changed.rope_parameters["rope_theta"] *= times
    loaded.model.rotary_emb = type(loaded.model.rotary_emb)(changed)


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_every_layer_and_the_logits_equal_transformers(shape, catalog, tmp_path):
    """As they are, and once more at another rotary base, which must make a difference where a layer rotates."""
    model, drafted = assemble(catalog, SHAPES[shape])
    decoder = random_decoder(drafted)
    loaded = exported(model, drafted, decoder, tmp_path)
    assert worst(decoder, loaded, batch()) < (BOUND, "nowhere")
    tokens, positions = batch()
    before = decoder(tokens, positions=positions)
    turn(decoder, drafted, loaded, 7.0)
    assert worst(decoder, loaded, batch()) < (BOUND, "nowhere")
    moved = distance(decoder(tokens, positions=positions), before)
    assert (moved > 100 * BOUND) == any(loaded.config.no_rope_layers)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_components_come_back_from_the_config(shape, catalog):
    """Read from what they write, the components write the same again."""
    registry = load_registry(("torchtitan", "gqa", "rope", "nope", "yarn", "docmask"))
    model, _ = assemble(catalog, SHAPES[shape])
    config = {"max_position_embeddings": LENGTH, **model.to_hf()}
    again = read_model(config, registry.catalog)
    assert {"max_position_embeddings": LENGTH, **again.to_hf()} == config
    assert SmolLM3Config(**again.to_hf()).to_dict() == SmolLM3Config(**config).to_dict()


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 2},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e6}, "max_position_embeddings": 65536},
        {"rope_theta": 1e5, "tie_word_embeddings": False, "no_rope_layer_interval": 3},
        {
            "rope_scaling": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 65536},
            "rope_theta": 5e6,
            "max_position_embeddings": 131072,
        },
    ],
)
def test_configs_that_transformers_saves_come_back(given, tmp_path):
    """What SmolLM3Config writes, read by the components and written again, is the same model to transformers."""
    theirs = SmolLM3Config(**given, architectures=["SmolLM3ForCausalLM"])
    theirs.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    registry = load_registry(("torchtitan", "gqa", "rope", "nope", "yarn", "docmask"))
    ours = SmolLM3Config(**read_model(saved, registry.catalog).to_hf())
    # SmolLM3Config leaves the width of a head out where it follows from other keys; the components always write it.
    assert ours.head_dim == getattr(theirs, "head_dim", theirs.hidden_size // theirs.num_attention_heads)
    assert {**ours.to_dict(), "head_dim": None} == {**theirs.to_dict(), "head_dim": None}


# --- the comparison can fail ------------------------------------------------------------------------------------------


@pytest.fixture
def both(catalog, tmp_path):
    """SmolLM3's shape twice over, equal."""
    model, drafted = assemble(catalog, SHAPES["as SmolLM3"])
    decoder = random_decoder(drafted)
    return drafted, decoder, exported(model, drafted, decoder, tmp_path)


def rotates(loaded) -> list[int]:
    return [index for index, uses in enumerate(loaded.config.no_rope_layers) if uses]


@torch.no_grad()
def test_nope_the_other_way_round_is_found_in_the_first_layer(both):
    drafted, decoder, loaded = both
    still, turning = drafted.decoder.layers[3].attention.rope, drafted.decoder.layers[0].attention.rope
    for index, layer in enumerate(decoder.layers.values()):
        layer.attention.rope = (still if index in rotates(loaded) else turning).build()
    apart, where = worst(decoder, loaded, batch())
    assert (apart > 1000 * BOUND, where) == (True, "layer 0, part 0")


@torch.no_grad()
def test_one_layer_that_rotates_too_many_is_found_there(both):
    drafted, decoder, loaded = both
    decoder.layers["7"].attention.rope = drafted.decoder.layers[0].attention.rope.build()
    apart, where = worst(decoder, loaded, batch())
    assert (apart > 100 * BOUND, where) == (True, "layer 7, part 0")


def interleave(loaded, layers) -> None:
    """Order the rows of queries and keys as checkpoints for interleaved rotation have them."""
    for index in layers:
        attention = loaded.model.layers[index].self_attn
        for projection in (attention.q_proj, attention.k_proj):
            rows = projection.weight.view(-1, 2, attention.head_dim // 2, projection.in_features)
            projection.weight.copy_(rows.transpose(1, 2).reshape(projection.weight.shape))


@torch.no_grad()
def test_queries_and_keys_in_the_order_for_interleaved_rotation_are_found(both):
    _, decoder, loaded = both
    interleave(loaded, rotates(loaded))
    apart, where = worst(decoder, loaded, batch())
    assert (apart > 100 * BOUND, where) == (True, "layer 0, part 0")


@torch.no_grad()
def test_layers_without_rotation_would_hide_that_order(both):
    """Attention without rotation does not care about the order of a head's dimensions: other layers have to tell."""
    _, decoder, loaded = both
    interleave(loaded, [3, 7])
    assert worst(decoder, loaded, batch()) < (BOUND, "nowhere")


@torch.no_grad()
def test_keys_shared_by_the_wrong_queries_are_found(both):
    _, decoder, loaded = both
    projection = loaded.model.layers[2].self_attn.k_proj
    projection.weight.copy_(projection.weight.view(2, -1, projection.in_features).flip(0).flatten(0, 1))
    apart, where = worst(decoder, loaded, batch())
    assert (apart > 100 * BOUND, where) == (True, "layer 2, part 0")


@torch.no_grad()
def test_a_skipped_mask_is_found(catalog, both):
    """Without the component the same weights let documents see each other, as they do in transformers by default."""
    _, decoder, loaded = both
    unmasked = {name: options for name, options in SMOLLM3.items() if name != "docmask"}
    careless = assemble(catalog, unmasked)[1].decoder.build()
    careless.init_states()
    careless.load_state_dict(decoder.state_dict())
    apart, where = worst(careless, loaded, batch())
    assert (apart > 100 * BOUND, where) == (True, "layer 0, part 0")
    apart, where = worst(decoder, loaded, batch(), attention_mask=torch.ones(2, LENGTH, dtype=torch.long))
    assert (apart > 100 * BOUND, where) == (True, "layer 0, part 0")
    # Documents apart or not is no question where there is only one.
    one = (batch()[0][1:], batch()[1][1:])
    assert worst(careless, loaded, one) < (BOUND, "nowhere")


@torch.no_grad()
def test_yarn_without_its_attention_factor_is_found(catalog, tmp_path):
    model, drafted = assemble(catalog, SHAPES["stretched by YaRN"])
    decoder = random_decoder(drafted)
    loaded = exported(model, drafted, decoder, tmp_path)
    loaded.model.rotary_emb.attention_scaling = 1.0
    apart, where = worst(decoder, loaded, batch())
    assert (apart > 100 * BOUND, where) == (True, "layer 0, part 0")


# --- documents --------------------------------------------------------------------------------------------------------


def in_flex(drafted, decoder):
    """The same weights under torchtitan's FlexAttention, whose mask its own code builds; it runs forward on a CPU."""
    config = copy.deepcopy(drafted.decoder)
    for layer in config.layers:
        layer.attention.inner_attention = FlexAttention.Config()
    flex = config.build()
    flex.init_states()
    flex.load_state_dict(decoder.state_dict())
    return lambda tokens, positions: flex(
        tokens, positions=positions, attention_masks=flex.get_attention_masks(positions)
    )


@pytest.mark.parametrize("backend", ["dense", "flex"])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@torch.no_grad()
def test_documents_of_a_row_do_not_know_of_each_other(backend, both):
    """Other tokens in one document do not change one bit of another's logits; nor do later tokens of the same."""
    drafted, decoder, _ = both
    assert drafted.restart_positions
    tokens, positions = batch()
    compute = in_flex(drafted, decoder) if backend == "flex" else lambda ids, places: decoder(ids, positions=places)
    before = compute(tokens, positions)
    if backend == "flex":
        assert distance(before, decoder(tokens, positions=positions)) < BOUND
    changed = tokens.clone()
    changed[0, 6:20] = (changed[0, 6:20] + 1) % VOCAB
    after = compute(changed, positions)
    same = (after[0] == before[0]).all(dim=-1)
    assert same[:6].all()
    assert same[36:].all()
    assert not same[6:36].any()
    assert torch.equal(after[1], before[1])


def test_no_label_crosses_from_one_document_into_the_next(catalog):
    """What the rows of the batch are trained on: all but the first tokens, the token that ends a document included."""
    tokens, positions = batch()
    ends = [4, 5, 35]
    row = TokenRow(np.append(tokens[0].numpy(), 9), positions[0].numpy(), last_starts_document=True)
    labels = labels_of(row)
    kept = [place for place in range(LENGTH) if place not in [*ends, LENGTH - 1]]
    assert (labels[kept] == row.tokens[1:][kept]).all()
    assert (labels[[*ends, LENGTH - 1]] == -100).all()
    assert {end - 1 for end in ends} - set(ends) <= set(kept)
