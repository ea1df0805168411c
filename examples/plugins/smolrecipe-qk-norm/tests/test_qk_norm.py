"""QK-norm: parameters and their names, the function against transformers' Qwen3, and who may export it."""

import json

import pytest
import smolrecipe_qk_norm
import torch
from safetensors.torch import save_file
from smolrecipe_qk_norm import QkNormOptions
from torch import nn
from torchtitan.models.common import CosSinRoPE, Embedding, Linear, RMSNorm
from torchtitan.models.common.attention import FusedQKVLinear, ScaledDotProductAttention
from torchtitan.models.common.config_utils import make_ffn_config, make_gqa_config
from torchtitan.models.llama3.model import Llama3Model, Llama3TransformerBlock
from transformers import AutoModelForCausalLM, Qwen3ForCausalLM

from smolrecipe import ModelDraft, StageError
from smolrecipe.testing import conformance

test_contract = conformance("qk_norm")

PLAIN, QWEN3 = smolrecipe_qk_norm.smolrecipe_model_components()
DIM, VOCAB, LAYERS, HEAD, LENGTH = 48, 32, 3, 12, 40
NAMES = {
    "tok_embeddings": "model.embed_tokens",
    "norm": "model.norm",
    "lm_head": "lm_head",
    "layers.{}.attention_norm": "model.layers.{}.input_layernorm",
    "layers.{}.attention.qkv_linear.wq": "model.layers.{}.self_attn.q_proj",
    "layers.{}.attention.qkv_linear.wk": "model.layers.{}.self_attn.k_proj",
    "layers.{}.attention.qkv_linear.wv": "model.layers.{}.self_attn.v_proj",
    "layers.{}.attention.wo": "model.layers.{}.self_attn.o_proj",
    "layers.{}.ffn_norm": "model.layers.{}.post_attention_layernorm",
    "layers.{}.feed_forward.w1": "model.layers.{}.mlp.gate_proj",
    "layers.{}.feed_forward.w3": "model.layers.{}.mlp.up_proj",
    "layers.{}.feed_forward.w2": "model.layers.{}.mlp.down_proj",
}
"""What a decoder component would have entered: torchtitan's names -> those of Llama-like models."""

CONFIG = {
    "model_type": "smollm3",
    "architectures": ["SmolLM3ForCausalLM"],
    "vocab_size": VOCAB,
    "hidden_size": DIM,
    "intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": HEAD,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    "max_position_embeddings": 64,
    "no_rope_layers": [1] * LAYERS,
    "mlp_bias": False,
    "layer_types": ["full_attention"] * LAYERS,
}
"""What a decoder of this shape would have written, in part."""


def normal():
    return {"weight": lambda tensor: nn.init.normal_(tensor, std=0.2)}


def norm():
    return RMSNorm.Config(normalized_shape=DIM, eps=1e-6, param_init={"weight": nn.init.ones_})


def draft(fuse_qkv=False):
    layers = [
        Llama3TransformerBlock.Config(
            attention_norm=norm(),
            ffn_norm=norm(),
            attention=make_gqa_config(
                dim=DIM,
                n_heads=4,
                n_kv_heads=2,
                head_dim=HEAD,
                wqkv_param_init=normal(),
                wo_param_init=normal(),
                inner_attention=ScaledDotProductAttention.Config(),
                rope=CosSinRoPE.Config(dim=HEAD, max_seq_len=64, theta=500.0),
                fuse_qkv=fuse_qkv,
            ),
            feed_forward=make_ffn_config(dim=DIM, hidden_dim=64, w1_param_init=normal(), w2w3_param_init=normal()),
        )
        for _ in range(LAYERS)
    ]
    decoder = Llama3Model.Config(
        dim=DIM,
        vocab_size=VOCAB,
        tok_embeddings=Embedding.Config(num_embeddings=VOCAB, embedding_dim=DIM, param_init=normal()),
        norm=norm(),
        lm_head=Linear.Config(in_features=DIM, out_features=VOCAB, param_init=normal()),
        layers=layers,
    )
    names = {f"{ours}.weight": f"{theirs}.weight" for ours, theirs in NAMES.items()}
    return ModelDraft(device="cpu", sequence_length=64, decoder=decoder, hf_parameters=names)


def build(drafted):
    torch.manual_seed(0)
    model = drafted.decoder.build()
    model.init_states()
    return model


def hugging_face_name(name, drafted):
    parts = name.split(".")
    if parts[0] != "layers":
        return drafted.hf_parameters[name]
    return drafted.hf_parameters[".".join(["layers", "{}", *parts[2:]])].format(parts[1])


def test_each_layer_gets_two_norms_as_wide_as_a_head_and_they_have_names():
    edited = draft()
    before = set(build(edited).state_dict())
    PLAIN.apply(edited, QkNormOptions())
    state = build(edited).state_dict()
    new = {f"layers.{index}.attention.{which}_norm.weight" for index in range(LAYERS) for which in "qk"}
    assert set(state) - before == new
    assert before < set(state)
    assert all(torch.equal(state[name], torch.ones(HEAD)) for name in new)
    assert {hugging_face_name(name, edited) for name in new} == {
        f"model.layers.{index}.self_attn.{which}_norm.weight" for index in range(LAYERS) for which in "qk"
    }


def exported(edited, model, folder):
    """The weights under their Hugging Face names, and the config, as transformers loads them."""
    config = dict(CONFIG)
    QWEN3.to_hf(config, QkNormOptions())
    weights = {hugging_face_name(name, edited): value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    loaded, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert type(loaded) is Qwen3ForCausalLM
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return loaded.eval()


@torch.no_grad()
def test_logits_are_those_of_transformers_qwen3(tmp_path):
    """Norms with weights of their own, unlike for queries and keys; float32 rounding over three layers."""
    edited = draft()
    QWEN3.apply(edited, QkNormOptions())
    model = build(edited)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
    loaded = exported(edited, model, tmp_path)
    tokens = torch.randint(VOCAB, (2, LENGTH))
    ours, theirs = model(tokens), loaded(tokens).logits
    scale = theirs.abs().max()
    assert (ours - theirs).abs().max() < 1e-5 * scale

    attention = model.layers["1"].attention
    attention.q_norm, attention.k_norm = attention.k_norm, attention.q_norm
    assert (model(tokens) - theirs).abs().max() > 1e-3 * scale, "queries' norm on keys must make a difference"
    attention.q_norm, attention.k_norm = attention.k_norm, attention.q_norm
    for layer in model.layers.values():
        layer.attention.q_norm = layer.attention.k_norm = None
    assert (model(tokens) - theirs).abs().max() > 1e-3 * scale, "and so must no norms at all"


@torch.no_grad()
def test_every_head_is_normed_by_itself():
    """Attention does not know how large queries and keys come in: a head's projection times ten changes nothing."""
    edited = draft()
    PLAIN.apply(edited, QkNormOptions(eps=1e-12))
    model = build(edited)
    tokens = torch.randint(VOCAB, (1, LENGTH))
    before = model(tokens)
    linear = model.layers["0"].attention.qkv_linear
    linear.wq.weight[:HEAD] *= 10  # the first query head
    linear.wk.weight[HEAD:] *= 0.1  # the second key head
    torch.testing.assert_close(model(tokens), before, rtol=1e-4, atol=1e-4)
    linear.wv.weight[:HEAD] *= 10
    assert not torch.allclose(model(tokens), before, rtol=1e-2, atol=1e-2)


def test_other_components_find_the_norms_where_torchtitan_keeps_them():
    """One config for each layer, so that what resizes heads may resize one layer's norms; fused projections work."""
    edited = draft(fuse_qkv=True)
    PLAIN.apply(edited, QkNormOptions(eps=1e-5))
    norms = [layer.attention.qk_norm for layer in edited.decoder.layers]
    assert len({id(norm) for norm in norms}) == LAYERS
    assert {norm.eps for norm in norms} == {1e-5}
    attention = build(edited).layers["0"].attention
    assert isinstance(attention.qkv_linear, FusedQKVLinear)
    assert attention.q_norm is not attention.k_norm


def test_no_model_of_transformers_has_them_with_nope():
    assert PLAIN.to_hf is None
    rotating = dict(CONFIG)
    QWEN3.to_hf(rotating, QkNormOptions())
    assert rotating["architectures"] == ["Qwen3ForCausalLM"]
    assert not any(key.startswith("no_rope") for key in rotating)
    with pytest.raises(StageError, match=r"every layer rotates.*nope"):
        QWEN3.to_hf(CONFIG | {"no_rope_layers": [1, 1, 0]}, QkNormOptions())
    with pytest.raises(StageError, match=r"one epsilon.*1e-06"):
        QWEN3.to_hf(dict(CONFIG), QkNormOptions(eps=1e-5))
    assert "nope" in QWEN3.after, "what stops layers from rotating must have written so before"


def test_drafts_that_cannot_take_it_are_refused():
    with pytest.raises(StageError, match="'decoder'"):
        PLAIN.apply(ModelDraft(device="cpu", sequence_length=8), QkNormOptions())
    twice = draft()
    PLAIN.apply(twice, QkNormOptions())
    with pytest.raises(StageError, match="list it once"):
        QWEN3.apply(twice, QkNormOptions())
    other = draft()
    other.decoder.layers[1].attention = norm()
    with pytest.raises(StageError, match="layer 1: its attention is RMSNorm"):
        PLAIN.apply(other, QkNormOptions())
