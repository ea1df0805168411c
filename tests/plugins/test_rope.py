"""Rotary embeddings: the same cosines, sines and rotation as transformers', whatever the order of components."""

import copy
from dataclasses import dataclass

import pytest
import torch
from torchtitan.models.common.attention import ScaledDotProductAttention
from torchtitan.models.common.config_utils import make_gqa_config
from torchtitan.models.common.rope import ComplexRoPE, CosSinRoPE, RoPE
from torchtitan.models.llama3.model import Llama3Model, Llama3TransformerBlock
from transformers import SmolLM3Config
from transformers.models.smollm3.modeling_smollm3 import SmolLM3RotaryEmbedding, apply_rotary_pos_emb

import smolrecipe_rope
from smolrecipe import ModelDraft, StageError
from smolrecipe_rope import RopeOptions

(ROPE,) = smolrecipe_rope.smolrecipe_model_components()


class Unrotated(RoPE):
    """A stranger's module without rotation."""

    @dataclass(kw_only=True, slots=True)
    class Config(RoPE.Config):
        pass


def draft(head_dim=16, rope=CosSinRoPE, num_layers=3, **rope_settings):
    layers = [
        Llama3TransformerBlock.Config(
            attention_norm=None,
            ffn_norm=None,
            attention=make_gqa_config(
                dim=2 * head_dim,
                n_heads=2,
                wqkv_param_init={},
                wo_param_init={},
                inner_attention=ScaledDotProductAttention.Config(),
                rope=rope.Config(dim=head_dim, max_seq_len=32, **rope_settings),
            ),
        )
        for _ in range(num_layers)
    ]
    decoder = Llama3Model.Config(dim=2 * head_dim, lm_head=None, tok_embeddings=None, norm=None, layers=layers)
    return ModelDraft(device="cpu", sequence_length=32, decoder=decoder)


def transformers_cos_sin(head_dim, theta, positions):
    config = SmolLM3Config(
        hidden_size=2 * head_dim,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=head_dim,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
    )
    return SmolLM3RotaryEmbedding(config)(torch.zeros(1), positions)


@pytest.mark.parametrize("theta", [10_000.0, 50_000.0, 2_000_000.0, 5_000_000.0])
@pytest.mark.parametrize("head_dim", [16, 64, 128])
def test_cosines_and_sines_equal_transformers(theta, head_dim):
    edited = draft(head_dim)
    ROPE.apply(edited, RopeOptions(theta=theta, max_positions=4096))
    cache = edited.decoder.layers[0].attention.rope.build().cache
    cos, sin = transformers_cos_sin(head_dim, theta, torch.arange(4096)[None])
    assert torch.equal(cache, torch.cat([cos, sin], dim=-1)[0])


def test_rotation_equals_transformers_and_needs_no_permutation():
    edited = draft()
    ROPE.apply(edited, RopeOptions(theta=50_000.0, max_positions=64))
    rotary = edited.decoder.layers[0].attention.rope.build()
    positions = torch.tensor([[0, 1, 2, 0, 1, 63], [5, 6, 7, 8, 0, 1]])
    query, key = torch.randn(2, 6, 4, 16), torch.randn(2, 6, 2, 16)
    ours = rotary(query, key, positions)
    theirs = apply_rotary_pos_emb(query, key, *transformers_cos_sin(16, 50_000.0, positions), unsqueeze_dim=2)
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine, other)


def test_every_layer_gets_a_config_of_its_own_and_keeps_its_kind():
    edited = draft(rope=Unrotated)
    edited.decoder.layers[1].attention.rope = ComplexRoPE.Config(dim=16, max_seq_len=32)
    edited.decoder.layers[2].attention.rope = CosSinRoPE.Config(dim=16, max_seq_len=32)
    before = [layer.attention.rope for layer in edited.decoder.layers]
    ROPE.apply(edited, RopeOptions(theta=2e6, max_positions=128))
    after = [layer.attention.rope for layer in edited.decoder.layers]
    assert [type(rope) for rope in after] == [Unrotated.Config, CosSinRoPE.Config, CosSinRoPE.Config]
    assert {(rope.dim, rope.theta, rope.max_seq_len) for rope in after} == {(16, 2e6, 128)}
    assert len({id(rope) for rope in [*before, *after]}) == 6
    assert before[0].theta == 10_000.0


def test_hugging_face_reads_the_base():
    config = {"rope_theta": 1234.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    ROPE.to_hf(config, RopeOptions(theta=50_000, max_positions=4096))
    loaded = SmolLM3Config(**config)
    assert loaded.rope_parameters == {"rope_type": "default", "rope_theta": 50_000.0}
    assert loaded.max_position_embeddings == 4096
    assert ROPE.max_positions(RopeOptions(theta=50_000, max_positions=4096)) == 4096


def test_drafts_that_cannot_take_it_are_refused():
    options = RopeOptions(theta=2e6, max_positions=128)
    with pytest.raises(StageError, match="'decoder'"):
        ROPE.apply(ModelDraft(device="cpu", sequence_length=8), options)
    with pytest.raises(StageError, match="undo the 'yarn' scaling"):
        ROPE.apply(draft(scaling="yarn", rope_factor=2.0), options)
    bare = draft()
    bare.decoder.layers[0].attention.rope = None
    with pytest.raises(StageError, match="layer 0"):
        ROPE.apply(bare, options)


@pytest.mark.parametrize(("theta", "positions"), [(10_000.0, 128), (50_000.0, 4096), (5e6, 65536)])
def test_options_come_back_from_a_config(theta, positions):
    options = RopeOptions(theta=theta, max_positions=positions)
    config = {"model_type": "smollm3"}
    ROPE.to_hf(config, options)
    assert ROPE.from_hf(config) == options
    assert ROPE.from_hf(SmolLM3Config(**config).to_dict()) == options


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"rope_theta": 1e5},
        {"rope_theta": 1e5, "rope_scaling": None},
        {"rope_parameters": {"rope_type": "default"}},
        {"rope_parameters": {"rope_type": "default"}, "rope_theta": 1e5},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 3e5}, "rope_theta": 1e5},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 3e5}, "rope_scaling": {"type": "default"}},
        {"rope_scaling": {"rope_type": "default", "rope_theta": 4e5}, "rope_theta": 1e5},
        {"rope_scaling": {}, "rope_parameters": {"rope_theta": 3e5}, "max_position_embeddings": 512},
        {"partial_rotary_factor": 1.0},
    ],
)
def test_keys_old_and_new_are_read_in_transformers_order(given):
    options = ROPE.from_hf({"model_type": "smollm3", **given})
    theirs = SmolLM3Config(**copy.deepcopy(given))
    assert options.theta == theirs.rope_parameters["rope_theta"]
    assert options.max_positions == theirs.max_position_embeddings
    assert ROPE.from_hf(theirs.to_dict()) == options


def test_under_yarn_the_bound_is_the_one_before():
    yarn = {"rope_type": "yarn", "rope_theta": 5e6, "factor": 2.0, "original_max_position_embeddings": 65536}
    config = {"model_type": "smollm3", "rope_parameters": yarn, "max_position_embeddings": 131072}
    assert ROPE.from_hf(config) == RopeOptions(theta=5e6, max_positions=65536)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (
            {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}},
            r"rope_type in config.json \(rope_parameters\) is 'llama3'",
        ),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, r"rope_type in config.json \(rope_scaling\) is 'linear'"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "apart for full_attention"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"partial_rotary_factor": 0.25}, "partial_rotary_factor in config.json is 0.25"),
    ],
)
def test_what_it_cannot_say_is_refused(given, complaint):
    with pytest.raises(StageError, match=complaint):
        ROPE.from_hf({"model_type": "smollm3", **given})


def test_configs_of_other_models_are_not_its_business():
    assert ROPE.from_hf({"model_type": "llama", "rope_theta": 5e5, "max_position_embeddings": 8}) is None
    assert ROPE.after == ("decoder",)
