"""Grouped-query attention: shapes, initialisers, names, and the function that it computes."""

import dataclasses
from functools import partial

import pytest
import torch
from torch import nn
from torchtitan.models.common import CosSinRoPE, Embedding, Linear, RMSNorm
from torchtitan.models.common.attention import FusedQKVLinear, ScaledDotProductAttention
from torchtitan.models.common.config_utils import make_ffn_config, make_gqa_config
from torchtitan.models.llama3.model import Llama3Model, Llama3TransformerBlock
from transformers import SmolLM3Config

import smolrecipe_gqa
from smolrecipe import ModelDraft, StageError
from smolrecipe_gqa import GqaOptions

DIM, VOCAB = 48, 32
(GQA,) = smolrecipe_gqa.smolrecipe_model_components()


def decoder(num_layers=2, num_heads=4, head_dim=None, fuse_qkv=False):
    """A plain decoder with multi-head attention; every layer has an output initialiser of its own."""

    def normal(std):
        return {"weight": partial(nn.init.normal_, std=std)}

    def norm():
        return RMSNorm.Config(normalized_shape=DIM, param_init={"weight": nn.init.ones_})

    layers = [
        Llama3TransformerBlock.Config(
            attention_norm=norm(),
            ffn_norm=norm(),
            attention=make_gqa_config(
                dim=DIM,
                n_heads=num_heads,
                head_dim=head_dim,
                wqkv_param_init=normal(0.2),
                wo_param_init=normal(0.2 / (index + 1)),
                inner_attention=ScaledDotProductAttention.Config(),
                rope=CosSinRoPE.Config(dim=head_dim or DIM // num_heads, max_seq_len=64, theta=500.0),
                fuse_qkv=fuse_qkv,
            ),
            feed_forward=make_ffn_config(
                dim=DIM, hidden_dim=64, w1_param_init=normal(0.2), w2w3_param_init=normal(0.2)
            ),
        )
        for index in range(num_layers)
    ]
    return Llama3Model.Config(
        dim=DIM,
        vocab_size=VOCAB,
        tok_embeddings=Embedding.Config(num_embeddings=VOCAB, embedding_dim=DIM, param_init=normal(1.0)),
        norm=norm(),
        lm_head=Linear.Config(in_features=DIM, out_features=VOCAB, param_init=normal(0.2)),
        layers=layers,
    )


def draft(**shape):
    return ModelDraft(device="cpu", sequence_length=64, decoder=decoder(**shape))


def build(config):
    torch.manual_seed(0)
    model = config.build()
    model.init_states()
    return model


def configs_in(config):
    """Every config object of a tree, once for each place where it is referred to."""
    if dataclasses.is_dataclass(config):
        yield config
        for field in dataclasses.fields(config):
            yield from configs_in(getattr(config, field.name))
    elif isinstance(config, list):
        for item in config:
            yield from configs_in(item)


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 2, None), (8, 1, None), (6, 6, None), (4, 2, 20)])
def test_shapes_follow_from_the_heads(heads, kv_heads, head_dim):
    edited = draft()
    GQA.apply(edited, GqaOptions(num_heads=heads, num_kv_heads=kv_heads, head_dim=head_dim))
    attention = build(edited.decoder).layers["0"].attention
    width = head_dim or DIM // heads
    assert attention.qkv_linear.wq.weight.shape == (heads * width, DIM)
    assert attention.qkv_linear.wk.weight.shape == attention.qkv_linear.wv.weight.shape == (kv_heads * width, DIM)
    assert attention.wo.weight.shape == (DIM, heads * width)
    assert attention.rope.cache.shape == (64, 2 * width)
    assert attention.enable_gqa == (kv_heads < heads)


def test_grouped_heads_compute_multi_head_attention_with_repeated_keys_and_values():
    plain, grouped = draft(), draft()
    GQA.apply(grouped, GqaOptions(num_heads=4, num_kv_heads=2))
    full, shared = build(plain.decoder), build(grouped.decoder)
    weights = shared.state_dict()
    for name, weight in weights.items():
        if name.endswith(("wk.weight", "wv.weight")):
            weights[name] = weight.view(2, 1, -1, DIM).expand(2, 2, -1, DIM).reshape(DIM, DIM)
    full.load_state_dict(weights)
    tokens = torch.randint(VOCAB, (2, 24))
    # Same sums in another order of memory: float32 rounding only.
    torch.testing.assert_close(shared(tokens), full(tokens), rtol=1e-5, atol=1e-5)


def test_custom_head_width_is_scaled_by_its_own_square_root():
    edited = draft()
    GQA.apply(edited, GqaOptions(num_heads=4, num_kv_heads=2, head_dim=20))
    assert build(edited.decoder).layers["1"].attention.scaling == pytest.approx(20**-0.5)


def test_each_layer_keeps_its_initialisers_and_what_else_it_has():
    edited = draft()
    before = [layer.attention for layer in edited.decoder.layers]
    GQA.apply(edited, GqaOptions(num_heads=8, num_kv_heads=2))
    for old, layer in zip(before, edited.decoder.layers, strict=True):
        new = layer.attention
        assert new.wo.param_init is old.wo.param_init
        assert new.qkv_linear.wq.param_init is old.qkv_linear.wq.param_init
        assert new.qkv_linear.wkv.param_init is old.qkv_linear.wkv.param_init
        assert new.inner_attention is old.inner_attention
        assert (new.rope.theta, new.rope.max_seq_len, type(new.rope)) == (500.0, 64, CosSinRoPE.Config)
        assert old.n_heads == 4, "the config that was replaced must not change under others' hands"


def test_parameters_keep_their_names_and_no_config_is_shared():
    edited = draft()
    names = set(build(edited.decoder).state_dict())
    GQA.apply(edited, GqaOptions(num_heads=8, num_kv_heads=2))
    assert set(build(edited.decoder).state_dict()) == names
    found = list(configs_in(edited.decoder))
    assert len({id(config) for config in found}) == len(found)


def test_hugging_face_reads_the_heads():
    config = {"hidden_size": DIM, "head_dim": 12, "num_attention_heads": 4}
    GQA.to_hf(config, GqaOptions(num_heads=8, num_kv_heads=2))
    loaded = SmolLM3Config(**config)
    assert (loaded.num_attention_heads, loaded.num_key_value_heads, loaded.head_dim) == (8, 2, 6)
    GQA.to_hf(config, GqaOptions(num_heads=8, num_kv_heads=2, head_dim=10))
    assert config["head_dim"] == 10
    with pytest.raises(StageError, match="hidden_size"):
        GQA.to_hf({}, GqaOptions(num_heads=8, num_kv_heads=2))


def test_impossible_heads_are_reported_before_anything_runs():
    assert not list(GQA.check(GqaOptions(num_heads=16, num_kv_heads=4, head_dim=128)))
    (problem,) = GQA.check(GqaOptions(num_heads=6, num_kv_heads=4))
    assert "multiple" in problem
    (problem,) = GQA.check(GqaOptions(num_heads=4, num_kv_heads=4, head_dim=5))
    assert "odd" in problem


@pytest.mark.parametrize(
    ("edited", "options", "complaint"),
    [
        (lambda: ModelDraft(device="cpu", sequence_length=8), GqaOptions(num_heads=4, num_kv_heads=2), "'decoder'"),
        (draft, GqaOptions(num_heads=5, num_kv_heads=5), r"hidden_size \(48\)"),
        (draft, GqaOptions(num_heads=16, num_kv_heads=4), "even whole number"),  # heads of 3
        (lambda: draft(head_dim=20), GqaOptions(num_heads=4, num_kv_heads=2), "give head_dim"),
        (lambda: draft(fuse_qkv=True), GqaOptions(num_heads=4, num_kv_heads=2), FusedQKVLinear.__name__),
    ],
)
def test_drafts_that_cannot_take_it_are_refused(edited, options, complaint):
    with pytest.raises(StageError, match=complaint):
        GQA.apply(edited(), options)


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 2, 12), (6, 2, 8), (8, 1, 6), (4, 4, 20)])
def test_options_come_back_from_a_config(heads, kv_heads, head_dim):
    options = GqaOptions(num_heads=heads, num_kv_heads=kv_heads, head_dim=head_dim)
    config = {"model_type": "smollm3", "hidden_size": DIM}
    GQA.to_hf(config, options)
    assert GQA.from_hf(config) == options
    without = GqaOptions(num_heads=heads, num_kv_heads=kv_heads)
    GQA.to_hf(config, without)
    assert GQA.from_hf(config) == GqaOptions(num_heads=heads, num_kv_heads=kv_heads, head_dim=DIM // heads)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"num_attention_heads": 32},
        {"num_key_value_heads": None},
        {"hidden_size": 1024, "head_dim": 80},
        {"hidden_size": 1024, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": None},
    ],
)
def test_what_a_config_leaves_out_is_what_transformers_takes_it_for(given):
    """Read from the bare config, and written again: transformers sees the same heads."""
    theirs = SmolLM3Config(**{key: value for key, value in given.items() if key != "head_dim" or value})
    options = GQA.from_hf({"model_type": "smollm3", **given})
    assert options.num_heads == theirs.num_attention_heads
    assert options.num_kv_heads == theirs.num_key_value_heads
    # As transformers' attention has it.
    assert options.head_dim == getattr(theirs, "head_dim", theirs.hidden_size // theirs.num_attention_heads)
    assert GQA.from_hf(theirs.to_dict()) == options


def test_configs_of_other_models_are_not_its_business():
    assert GQA.from_hf({"model_type": "qwen2", "num_attention_heads": 8}) is None
    assert GQA.after == ("decoder",)
