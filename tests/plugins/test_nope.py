"""NoPE: which layers do not rotate, in torchtitan and in transformers."""

import pytest
import torch
from torchtitan.models.common.attention import ScaledDotProductAttention
from torchtitan.models.common.config_utils import make_gqa_config
from torchtitan.models.common.rope import CosSinRoPE
from torchtitan.models.llama3.model import Llama3Model, Llama3TransformerBlock
from transformers import SmolLM3Config, SmolLM3ForCausalLM

import smolrecipe_nope
from smolrecipe import ModelDraft, StageError
from smolrecipe_nope import NopeOptions

(NOPE,) = smolrecipe_nope.smolrecipe_model_components()


def draft(num_layers):
    layers = [
        Llama3TransformerBlock.Config(
            attention_norm=None,
            ffn_norm=None,
            attention=make_gqa_config(
                dim=16,
                n_heads=2,
                wqkv_param_init={},
                wo_param_init={},
                inner_attention=ScaledDotProductAttention.Config(),
                rope=CosSinRoPE.Config(dim=8, max_seq_len=32, theta=50_000.0),
            ),
        )
        for _ in range(num_layers)
    ]
    decoder = Llama3Model.Config(dim=16, lm_head=None, tok_embeddings=None, norm=None, layers=layers)
    return ModelDraft(device="cpu", sequence_length=32, decoder=decoder)


def rotates(rope):
    """Whether the built module changes a query at another position than 0."""
    query, key = torch.ones(1, 2, 2, 8), torch.ones(1, 2, 1, 8)
    turned, turned_key = rope.build()(query, key, torch.tensor([[0, 5]]))
    assert torch.equal(turned, query) == torch.equal(turned_key, key)
    return not torch.equal(turned, query)


@pytest.mark.parametrize(("num_layers", "every"), [(36, 4), (6, 4), (8, 3), (5, 1), (4, 4)])
def test_layers_agree_with_transformers_own_rule(num_layers, every):
    edited = draft(num_layers)
    NOPE.apply(edited, NopeOptions(every=every))
    config = {"num_hidden_layers": num_layers}
    NOPE.to_hf(config, NopeOptions(every=every))
    theirs = SmolLM3Config(num_hidden_layers=num_layers, no_rope_layer_interval=every).no_rope_layers
    assert config["no_rope_layers"] == theirs
    assert [int(rotates(layer.attention.rope)) for layer in edited.decoder.layers] == theirs


def test_smollm3_has_nine_layers_without_rotation():
    config = {"num_hidden_layers": 36}
    NOPE.to_hf(config, NopeOptions())
    without = [index for index, uses in enumerate(config["no_rope_layers"]) if not uses]
    assert without == [3, 7, 11, 15, 19, 23, 27, 31, 35]


def test_polarity_is_that_of_the_model_not_only_of_its_config():
    """A 0 in ``no_rope_layers`` makes transformers' attention deaf to positions; a 1 does not."""
    config = {"num_hidden_layers": 2}
    NOPE.to_hf(config, NopeOptions(every=2))
    sizes = {"vocab_size": 16, "hidden_size": 16, "intermediate_size": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    model = SmolLM3ForCausalLM(SmolLM3Config(**config, **sizes, **heads, **special))
    hidden = torch.randn(1, 4, 16)

    def attend(layer, positions):
        angles = model.model.rotary_emb(hidden, torch.tensor([positions]))
        return layer.self_attn(hidden_states=hidden, position_embeddings=angles, attention_mask=None)[0]

    hears = [not torch.equal(attend(layer, [0, 1, 2, 3]), attend(layer, [0, 3, 6, 9])) for layer in model.model.layers]
    assert hears == [True, False]


def test_config_keeps_what_later_components_need():
    edited = draft(4)
    NOPE.apply(edited, NopeOptions())
    rope = edited.decoder.layers[3].attention.rope
    assert (rope.dim, rope.max_seq_len, rope.theta) == (8, 32, 50_000.0)
    assert rope.build().cache.numel() == 0


def test_drafts_that_cannot_take_it_are_refused():
    with pytest.raises(StageError, match="'decoder'"):
        NOPE.apply(ModelDraft(device="cpu", sequence_length=8), NopeOptions())
    with pytest.raises(StageError, match="none of the decoder's 3 layers"):
        NOPE.apply(draft(3), NopeOptions(every=4))
    with pytest.raises(StageError, match="num_hidden_layers"):
        NOPE.to_hf({}, NopeOptions())
    bare = draft(4)
    bare.decoder.layers[3].attention.rope = None
    with pytest.raises(StageError, match="layer 3"):
        NOPE.apply(bare, NopeOptions())


@pytest.mark.parametrize(("num_layers", "every"), [(36, 4), (6, 4), (8, 3), (5, 1), (4, 4), (7, 2)])
def test_options_come_back_from_a_config(num_layers, every):
    config = {"model_type": "smollm3", "num_hidden_layers": num_layers}
    NOPE.to_hf(config, NopeOptions(every=every))
    assert NOPE.from_hf(config) == NopeOptions(every=every)
    assert NOPE.from_hf(SmolLM3Config(**config).to_dict()) == NopeOptions(every=every)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, NopeOptions(every=4)),
        ({"num_hidden_layers": 3}, None),  # no fourth layer
        ({"no_rope_layer_interval": 6}, NopeOptions(every=6)),
        ({"no_rope_layers": None, "no_rope_layer_interval": 2}, NopeOptions(every=2)),
        ({"num_hidden_layers": 4, "no_rope_layers": [1, 1, 1, 1]}, None),
        # The list goes before the interval, and only its first layers are the model's.
        (
            {"num_hidden_layers": 4, "no_rope_layers": [1, 0, 1, 0, 1, 1], "no_rope_layer_interval": 4},
            NopeOptions(every=2),
        ),
        ({"num_hidden_layers": 3, "no_rope_layers": [0, 0, 0]}, NopeOptions(every=1)),
    ],
)
def test_what_a_config_leaves_out_is_what_transformers_takes_it_for(given, expected):
    options = NOPE.from_hf({"model_type": "smollm3", **given})
    assert options == expected
    theirs = SmolLM3Config(**given)
    layers = theirs.num_hidden_layers
    mine = {"num_hidden_layers": layers, "no_rope_layers": [1] * layers}
    if options is not None:
        NOPE.to_hf(mine, options)
    assert mine["no_rope_layers"] == theirs.no_rope_layers[:layers]


@pytest.mark.parametrize(
    ("rotates", "complaint"),
    [
        ([0, 1, 1, 1], "leaves layers 0 without"),
        ([1, 0, 0, 1], "leaves layers 1, 2 without"),
        ([1, 0, 1, 1], "not every n-th of 4"),  # and not layer 3
        ([1, 1, 0], "speaks of 3 layers and the model has 4"),
    ],
)
def test_layers_that_are_not_every_nth_are_refused(rotates, complaint):
    with pytest.raises(StageError, match=complaint):
        NOPE.from_hf({"model_type": "smollm3", "num_hidden_layers": 4, "no_rope_layers": rotates})


def test_configs_of_other_models_are_not_its_business():
    assert NOPE.from_hf({"model_type": "llama", "num_hidden_layers": 8}) is None
    assert NOPE.after == ("decoder",)
