"""YaRN: frequencies and attention factor to the bit as transformers computes them, and configs that it loads."""

import itertools
import json
from dataclasses import dataclass

import pytest
import torch
from torchtitan.models.common.attention import ScaledDotProductAttention
from torchtitan.models.common.config_utils import make_gqa_config
from torchtitan.models.common.rope import ComplexRoPE, CosSinRoPE, RoPE
from torchtitan.models.llama3.model import Llama3Model, Llama3TransformerBlock
from transformers import AutoConfig, SmolLM3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.smollm3.modeling_smollm3 import SmolLM3RotaryEmbedding

import smolrecipe_yarn
from smolrecipe import ModelDraft, StageError
from smolrecipe_yarn import YarnOptions
from smolrecipe_yarn.rotary import YarnRoPE, attention_factor, frequencies

(YARN,) = smolrecipe_yarn.smolrecipe_model_components()
SMOLLM3 = YarnOptions(factor=2.0, original_max_positions=65536)


class Unrotated(RoPE):
    """A module without rotation, as NoPE layers have."""

    @dataclass(kw_only=True, slots=True)
    class Config(RoPE.Config):
        pass

    def _precompute_cache(self):
        return torch.empty(0)


def draft(*ropes, head_dim=16):
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
                rope=rope,
            ),
        )
        for rope in ropes
    ]
    decoder = Llama3Model.Config(dim=2 * head_dim, lm_head=None, tok_embeddings=None, norm=None, layers=layers)
    return ModelDraft(device="cpu", sequence_length=32, decoder=decoder)


def plain(head_dim=16, theta=5e6, **settings):
    return CosSinRoPE.Config(dim=head_dim, max_seq_len=32, theta=theta, **settings)


def hf_config(head_dim, theta, options):
    config = {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}
    YARN.to_hf(config, options)
    return SmolLM3Config(hidden_size=2 * head_dim, num_attention_heads=2, head_dim=head_dim, **config)


@pytest.mark.parametrize(
    ("theta", "factor", "original", "head_dim"),
    itertools.product([1e4, 5e4, 5e6], [1.0, 1.5, 2.0, 4.0, 32.0], [512, 4096, 65536], [16, 64, 128]),
)
def test_frequencies_equal_transformers_to_the_bit(theta, factor, original, head_dim):
    options = YarnOptions(factor=factor, original_max_positions=original)
    theirs, their_factor = ROPE_INIT_FUNCTIONS["yarn"](hf_config(head_dim, theta, options))
    assert torch.equal(frequencies(head_dim, theta, factor, original, 32.0, 1.0), theirs)
    assert attention_factor(factor) == their_factor


@pytest.mark.parametrize(("beta_fast", "beta_slow", "given"), [(64.0, 1.0, None), (8.0, 2.0, 1.25), (32.0, 31.9, 1.0)])
def test_other_settings_reach_both_sides(beta_fast, beta_slow, given):
    options = YarnOptions(
        factor=4.0, original_max_positions=4096, beta_fast=beta_fast, beta_slow=beta_slow, attention_factor=given
    )
    theirs, their_factor = ROPE_INIT_FUNCTIONS["yarn"](hf_config(64, 1e4, options))
    edited = draft(plain(64, theta=1e4), head_dim=64)
    YARN.apply(edited, options)
    config = edited.decoder.layers[0].attention.rope
    ours = frequencies(64, 1e4, config.rope_factor, config.original_seq_len, config.beta_fast, config.beta_slow)
    assert torch.equal(ours, theirs)
    assert config.attention_factor == their_factor


def test_cosines_and_sines_equal_transformers():
    edited = draft(plain(128), head_dim=128)
    YARN.apply(edited, SMOLLM3)
    # The bound of the config is the stretched one; torchtitan resizes it to the training length, as here.
    config = edited.decoder.layers[0].attention.rope
    assert config.max_seq_len == 131072
    config.max_seq_len = 2048
    cos, sin = SmolLM3RotaryEmbedding(hf_config(128, 5e6, SMOLLM3))(torch.zeros(1), torch.arange(2048)[None])
    assert torch.equal(config.build().cache, torch.cat([cos, sin], dim=-1)[0])


def test_smollm3_published_values():
    """High frequencies stay up to pair 24, low ones are halved from pair 39 on; cosines and sines grow by 1.0693."""
    stretched = frequencies(128, 5e6, 2.0, 65536, 32.0, 1.0)
    original = 1 / 5e6 ** (torch.arange(0, 128, 2) / 128)
    kept = torch.isclose(stretched, original, rtol=1e-6, atol=0)
    halved = torch.isclose(stretched, original / 2, rtol=1e-6, atol=0)
    assert kept.nonzero().flatten().tolist() == list(range(25))
    assert halved.nonzero().flatten().tolist() == list(range(39, 64))
    assert attention_factor(2.0) == pytest.approx(1.0693147, abs=1e-7)


def test_scores_of_rotating_layers_grow_by_the_factor_squared_at_distance_zero():
    edited = draft(plain(), Unrotated.Config(dim=16, max_seq_len=32))
    YARN.apply(edited, YarnOptions(factor=2.0, original_max_positions=16))
    rotary = edited.decoder.layers[0].attention.rope.build()
    query, key = torch.randn(1, 8, 1, 16), torch.randn(1, 8, 1, 16)
    turned, turned_key = rotary(query, key, torch.arange(8)[None])
    before, after = (query * key).sum(-1), (turned * turned_key).sum(-1)
    torch.testing.assert_close(after, before * attention_factor(2.0) ** 2, rtol=1e-4, atol=1e-4)


def test_layers_without_rotation_only_learn_the_new_bound():
    still = Unrotated.Config(dim=16, max_seq_len=32, theta=5e6)
    edited = draft(plain(), still, plain())
    YARN.apply(edited, SMOLLM3)
    ropes = [layer.attention.rope for layer in edited.decoder.layers]
    assert [type(rope) for rope in ropes] == [YarnRoPE.Config, Unrotated.Config, YarnRoPE.Config]
    assert {rope.max_seq_len for rope in ropes} == {131072}
    assert ropes[1].scaling == "none"
    assert still.max_seq_len == 32
    assert ropes[0] is not ropes[2]


@pytest.mark.parametrize(
    "exported",
    [
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e6}, "max_position_embeddings": 65536},
        {"rope_theta": 5e6, "rope_scaling": None, "max_position_embeddings": 65536},
        {"rope_theta": 5e6, "rope_scaling": {"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 1024}},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 5e6, "factor": 4.0, "beta_fast": 8.0}},
    ],
)
def test_exported_config_keeps_its_base_and_loads_scaled(exported, tmp_path):
    config = {"model_type": "smollm3", "hidden_size": 256, "num_attention_heads": 2, "head_dim": 128, **exported}
    YARN.to_hf(config, SMOLLM3)
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert loaded.rope_parameters == {
        "rope_type": "yarn",
        "rope_theta": 5e6,
        "factor": 2.0,
        "original_max_position_embeddings": 65536,
    }
    assert loaded.max_position_embeddings == YARN.max_positions(SMOLLM3) == 131072
    rotary = SmolLM3RotaryEmbedding(loaded)
    assert rotary.attention_scaling == pytest.approx(1.0693147, abs=1e-7)
    assert torch.equal(rotary.inv_freq, frequencies(128, 5e6, 2.0, 65536, 32.0, 1.0))


@pytest.mark.parametrize(
    ("exported", "complaint"),
    [
        ({}, "no rope_theta"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}}, "'llama3'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 5e5}, "'linear'"),
    ],
)
def test_configs_that_cannot_take_it_are_refused(exported, complaint):
    with pytest.raises(StageError, match=complaint):
        YARN.to_hf(exported, SMOLLM3)


@pytest.mark.parametrize(
    ("edited", "complaint"),
    [
        (lambda: ModelDraft(device="cpu", sequence_length=8), "'decoder'"),
        (lambda: draft(ComplexRoPE.Config(dim=16, max_seq_len=32)), "interleaved"),
        (lambda: draft(plain(scaling="yarn")), "already scaled"),
        (lambda: draft(Unrotated.Config(dim=16, max_seq_len=32)), "nothing to rescale"),
    ],
)
def test_drafts_that_cannot_take_it_are_refused(edited, complaint):
    with pytest.raises(StageError, match=complaint):
        YARN.apply(edited(), SMOLLM3)


def test_options_are_checked_together():
    assert not list(YARN.check(SMOLLM3))
    (problem,) = YARN.check(YarnOptions(factor=2.0, original_max_positions=8, beta_fast=1.0))
    assert "beta_fast" in problem


OPTIONS = [
    SMOLLM3,
    YarnOptions(factor=1.5, original_max_positions=512),
    YarnOptions(factor=4.0, original_max_positions=4096, beta_fast=64.0, beta_slow=2.0),
    YarnOptions(factor=32.0, original_max_positions=4096, attention_factor=1.25),
]


@pytest.mark.parametrize("options", OPTIONS)
def test_options_come_back_from_a_config(options):
    config = {"model_type": "smollm3", "rope_theta": 5e6}
    YARN.to_hf(config, options)
    assert YARN.from_hf(config) == options
    assert YARN.from_hf(SmolLM3Config(**config).to_dict()) == options


@pytest.mark.parametrize("options", OPTIONS)
def test_keys_of_older_releases_are_read_too(options):
    config = {"model_type": "smollm3", "rope_theta": 5e6}
    YARN.to_hf(config, options)
    old = config.pop("rope_parameters")
    old["type"] = old.pop("rope_type")
    assert YARN.from_hf({**config, "rope_scaling": old, "rope_parameters": {"rope_type": "default"}}) == options
    # Some models keep the original length beside the settings, and transformers reads it there first.
    beside = old.pop("original_max_position_embeddings")
    assert YARN.from_hf({**config, "rope_scaling": old, "original_max_position_embeddings": beside}) == options


@pytest.mark.parametrize(
    ("settings", "others", "complaint"),
    [
        # What transformers makes of a missing original length is not what anybody meant.
        ({"factor": 2.0}, {"max_position_embeddings": 131072}, "131072, and factor 2.0 times .* 131072 makes 262144"),
        ({"factor": 2.0}, {}, "32768, and factor"),
        ({"original_max_position_embeddings": 64}, {}, "factor is missing"),
        ({"factor": 2.0, "mscale": 1.0}, {}, "mscale in config.json"),
        ({"factor": 2.0, "truncate": False}, {}, "truncate in config.json"),
    ],
)
def test_what_it_cannot_say_is_refused(settings, others, complaint):
    with pytest.raises(StageError, match=complaint):
        YARN.from_hf({"model_type": "smollm3", "rope_parameters": {"rope_type": "yarn", **settings}, **others})


def test_configs_without_it_are_not_its_business():
    yarn = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}
    assert YARN.from_hf({"model_type": "smollm3"}) is None
    assert YARN.from_hf({"model_type": "smollm3", "rope_scaling": {"type": "linear"}, "rope_parameters": yarn}) is None
    assert YARN.from_hf({"model_type": "qwen2", "rope_parameters": yarn, "max_position_embeddings": 128}) is None
    assert YARN.after == ("decoder", "rope")


def test_a_length_beside_the_settings_does_not_survive():
    """transformers would read it before the one that is written."""
    config = {"rope_theta": 5e6, "original_max_position_embeddings": 4096}
    YARN.to_hf(config, SMOLLM3)
    loaded = SmolLM3Config(hidden_size=32, num_attention_heads=2, **config)
    assert loaded.rope_parameters["original_max_position_embeddings"] == 65536
