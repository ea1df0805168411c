"""Windows: which layers have one, against transformers' SmolLM3 with ``layer_types``, inside documents, in flex."""

import json
from dataclasses import dataclass

import pytest
import smolrecipe_sliding_window
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from smolrecipe_sliding_window import SlidingWindowOptions
from torch import nn
from torchtitan.models.common import CosSinRoPE, Embedding, Linear, RMSNorm
from torchtitan.models.common.attention import FlexAttention, ScaledDotProductAttention, VarlenAttention
from torchtitan.models.common.config_utils import make_ffn_config, make_gqa_config
from torchtitan.models.common.rope import RoPE
from torchtitan.models.llama3.model import Llama3Model, Llama3TransformerBlock
from torchtitan.protocols.module import Module
from transformers import AutoModelForCausalLM, SmolLM3Config, SmolLM3ForCausalLM

from smolrecipe import ModelDraft, StageError
from smolrecipe.testing import conformance

test_contract = conformance("sliding_window")

(WINDOW,) = smolrecipe_sliding_window.smolrecipe_model_components()
DIM, VOCAB, LAYERS, LENGTH, WIDTH = 48, 32, 4, 40, 6
OPTIONS = SlidingWindowOptions(window=WIDTH)
DOCUMENTS = ([9, 1, 21, 9], [LENGTH])
"""Lengths of the documents in the two rows of the batch; some are longer than the window, some are not."""

NAMES = {
    "tok_embeddings": "model.embed_tokens",
    "norm": "model.norm",
    "lm_head": "lm_head",
    "attention_norm": "input_layernorm",
    "attention.qkv_linear.wq": "self_attn.q_proj",
    "attention.qkv_linear.wk": "self_attn.k_proj",
    "attention.qkv_linear.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
}

CONFIG = {
    "model_type": "smollm3",
    "architectures": ["SmolLM3ForCausalLM"],
    "vocab_size": VOCAB,
    "hidden_size": DIM,
    "intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    "max_position_embeddings": 64,
    "no_rope_layers": [1, 1, 1, 0],
    "use_sliding_window": False,
    "sliding_window": None,
    "layer_types": ["full_attention"] * LAYERS,
    "pad_token_id": 0,
}
"""What the components of this model would have written."""


class Still(RoPE):
    """A rotary module that does not rotate."""

    @dataclass(kw_only=True, slots=True)
    class Config(RoPE.Config):
        pass

    def _precompute_cache(self):
        return torch.empty(0)

    def forward(self, query, key, positions=None):
        return query, key


class Documents(Module):
    """Causal attention within documents."""

    @dataclass(kw_only=True, slots=True)
    class Config(Module.Config):
        pass

    def __init__(self, config):
        super().__init__()

    def build_mask(self, positions):
        document = (positions == 0).cumsum(dim=1)
        return (document[:, :, None] == document[:, None, :])[:, None].tril()

    def forward(self, q_BLNH, k_BLNH, v_BLNH, *, attention_masks, **kwargs):
        q, k, v = (tensor.transpose(1, 2) for tensor in (q_BLNH, k_BLNH, v_BLNH))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=attention_masks, **kwargs).transpose(1, 2)


def normal():
    return {"weight": lambda tensor: nn.init.normal_(tensor, std=0.2)}


def norm():
    return RMSNorm.Config(normalized_shape=DIM, eps=1e-6, param_init={"weight": nn.init.ones_})


def draft(inner=Documents, still=(3,), **built_for):
    def layer(index):
        rope = Still if index in still else CosSinRoPE
        return Llama3TransformerBlock.Config(
            attention_norm=norm(),
            ffn_norm=norm(),
            attention=make_gqa_config(
                dim=DIM,
                n_heads=4,
                n_kv_heads=2,
                wqkv_param_init=normal(),
                wo_param_init=normal(),
                inner_attention=inner.Config(),
                rope=rope.Config(dim=12, max_seq_len=64, theta=500.0),
                fuse_qkv=False,
            ),
            feed_forward=make_ffn_config(dim=DIM, hidden_dim=64, w1_param_init=normal(), w2w3_param_init=normal()),
        )

    decoder = Llama3Model.Config(
        dim=DIM,
        vocab_size=VOCAB,
        tok_embeddings=Embedding.Config(num_embeddings=VOCAB, embedding_dim=DIM, param_init=normal()),
        norm=norm(),
        lm_head=Linear.Config(in_features=DIM, out_features=VOCAB, param_init=normal()),
        layers=[layer(index) for index in range(LAYERS)],
    )
    return ModelDraft(**{"device": "cpu", "sequence_length": 64, "decoder": decoder} | built_for)


def narrowed(**how):
    edited = draft(**how)
    WINDOW.apply(edited, OPTIONS)
    return edited


def build(drafted):
    torch.manual_seed(0)
    model = drafted.decoder.build()
    model.init_states()
    return model.eval()


def batch():
    torch.manual_seed(1)
    positions = torch.stack([torch.cat([torch.arange(length) for length in row]) for row in DOCUMENTS])
    return torch.randint(VOCAB, (2, LENGTH)), positions


def compute(model, tokens, positions):
    """As the recipe's decoder does it: one mask, by the first layer's module, for all."""
    mask = model.layers["0"].attention.inner_attention.build_mask(positions)
    return model(tokens, positions, mask)


def in_transformers(model, config, folder):
    def name(ours):
        parts = ours.removesuffix(".weight").split(".")
        if parts[0] != "layers":
            return f"{NAMES[parts[0]]}.weight"
        return f"model.layers.{parts[1]}.{NAMES['.'.join(parts[2:])]}.weight"

    save_file(
        {name(ours): value.contiguous() for ours, value in model.state_dict().items()}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text(json.dumps(config))
    loaded, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert type(loaded) is SmolLM3ForCausalLM
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return loaded.eval()


@pytest.mark.parametrize("still", [(3,), (0, 2), ()])
@torch.no_grad()
def test_logits_are_those_of_transformers_smollm3(still, tmp_path):
    """In rows of several documents, which transformers finds in position_ids; float32 rounding over four layers."""
    config = CONFIG | {"no_rope_layers": [int(index not in still) for index in range(LAYERS)]}
    WINDOW.to_hf(config, OPTIONS)
    model = build(narrowed(still=still))
    loaded = in_transformers(model, config, tmp_path)
    tokens, positions = batch()
    ours = compute(model, tokens, positions)
    theirs = loaded(tokens, position_ids=positions, use_cache=False).logits
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


@pytest.mark.parametrize(
    "wrong",
    [
        {"sliding_window": WIDTH + 1},
        {"sliding_window": WIDTH - 1},
        {"layer_types": ["sliding_attention"] * LAYERS},
        {"layer_types": None},  # transformers' own choice: the layers that do not rotate
        {"use_sliding_window": False, "layer_types": ["full_attention"] * LAYERS},
    ],
)
@torch.no_grad()
def test_another_window_or_other_layers_are_another_model(wrong, tmp_path):
    config = dict(CONFIG)
    WINDOW.to_hf(config, OPTIONS)
    model = build(narrowed())
    loaded = in_transformers(model, config | wrong, tmp_path)
    tokens, positions = batch()
    theirs = loaded(tokens, position_ids=positions, use_cache=False).logits
    assert (compute(model, tokens, positions) - theirs).abs().max() > 1e-3 * theirs.abs().max()


@torch.no_grad()
def test_how_far_a_layer_sees():
    """One layer alone, token by token: its output changes with the token WIDTH - 1 before it, and not with WIDTH."""
    model = build(narrowed())
    positions = torch.arange(LENGTH)[None]
    mask = model.layers["0"].attention.inner_attention.build_mask(positions)
    states = torch.randn(1, LENGTH, DIM)
    for index, layer in model.layers.items():
        before = layer.attention(states, mask, positions)
        changed = states.clone()
        changed[0, 10] += 1
        moved = (layer.attention(changed, mask, positions) != before).any(dim=-1)[0].nonzero().flatten().tolist()
        assert moved == list(range(10, LENGTH if index == "3" else 10 + WIDTH))


@torch.no_grad()
def test_documents_stay_apart_where_they_were_and_only_there():
    tokens, positions = batch()
    changed = tokens.clone()
    changed[0, :10] = (changed[0, :10] + 1) % VOCAB
    apart = build(narrowed())
    same = (compute(apart, tokens, positions)[0] == compute(apart, changed, positions)[0]).all(dim=-1)
    assert same[10:].all() and not same[:10].any()
    assert apart.layers["0"].attention.inner_attention.sees_documents
    # torchtitan's plain causal attention over the row, narrowed: the layer without rotation sees across documents.
    row = build(narrowed(inner=ScaledDotProductAttention))
    same = (compute(row, tokens, positions)[0] == compute(row, changed, positions)[0]).all(dim=-1)
    assert not same.any()
    assert not row.layers["0"].attention.inner_attention.sees_documents


@torch.no_grad()
def test_a_window_as_long_as_the_row_is_no_window():
    wide = draft()
    WINDOW.apply(wide, SlidingWindowOptions(window=LENGTH))
    tokens, positions = batch()
    plain = build(draft())
    expected = plain(tokens, positions, Documents(None).build_mask(positions))
    torch.testing.assert_close(compute(build(wide), tokens, positions), expected, rtol=0, atol=0)
    assert not torch.allclose(compute(build(narrowed()), tokens, positions), expected, atol=1e-2)


def test_gradients_reach_all_that_a_query_sees():
    model = build(narrowed())
    tokens, positions = batch()
    compute(model, tokens, positions).square().mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@torch.no_grad()
def test_flex_is_the_same_function():
    """torchtitan makes one block mask for its flex attention; it runs forward on a CPU, and backward on GPUs only."""
    flex = build(narrowed(inner=FlexAttention, device="cuda"))
    dense = build(narrowed())
    dense.load_state_dict(flex.state_dict())
    tokens, positions = batch()
    with torch.compiler.set_stance("force_eager"):  # compiling it takes longer than all other tests
        ours = flex(tokens, positions, flex.get_attention_masks(positions))
    theirs = compute(dense, tokens, positions)
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


def test_kernels_with_a_window_of_their_own_get_it():
    """They count tokens before the query, and leave layers without rotation as they are; they run on GPUs only."""
    edited = narrowed(inner=VarlenAttention, device="cuda")
    windows = [layer.attention.inner_attention.window_size for layer in edited.decoder.layers]
    assert windows == [(WIDTH - 1, 0)] * 3 + [(-1, 0)]


def test_no_layer_shares_a_config_and_no_parameter_is_added():
    edited = narrowed()
    inner = [layer.attention.inner_attention for layer in edited.decoder.layers]
    assert len({id(config) for config in inner}) == len({id(config.inner) for config in inner}) == LAYERS
    assert set(build(edited).state_dict()) == set(build(draft()).state_dict())


def test_the_config_says_it_layer_by_layer_and_back():
    config = dict(CONFIG)
    WINDOW.to_hf(config, OPTIONS)
    assert config["layer_types"] == ["sliding_attention"] * 3 + ["full_attention"]
    theirs = SmolLM3Config(**config)
    assert (theirs.sliding_window, theirs.layer_types) == (WIDTH, config["layer_types"])
    assert WINDOW.from_hf(config) == WINDOW.from_hf(theirs.to_dict()) == OPTIONS
    assert WINDOW.from_hf(CONFIG) is None
    assert WINDOW.from_hf(config | {"model_type": "qwen3"}) is None
    with pytest.raises(StageError, match="disagree in layers 0, 1, 2, 3"):
        WINDOW.from_hf(SmolLM3Config(**config | {"layer_types": None}).to_dict())
    with pytest.raises(StageError, match="num_hidden_layers"):
        WINDOW.to_hf({}, OPTIONS)


def test_drafts_that_cannot_take_it_are_refused():
    with pytest.raises(StageError, match="'decoder'"):
        WINDOW.apply(ModelDraft(device="cpu", sequence_length=8), OPTIONS)
    with pytest.raises(StageError, match="no layer that rotates"):
        narrowed(still=range(LAYERS))
    with pytest.raises(StageError, match="layer 0 already"):
        WINDOW.apply(narrowed(), OPTIONS)
    shared = {"device": "cuda", "context_parallel": 2}
    (problem,) = WINDOW.check_draft(OPTIONS, draft(**shared))
    assert "2 GPUs" in problem
    with pytest.raises(StageError, match="2 GPUs"):
        narrowed(inner=FlexAttention, **shared)
    assert not list(WINDOW.check_draft(OPTIONS, draft(context_parallel=2)))


@torch.no_grad()
def test_attention_without_a_mask_is_refused():
    tokens, positions = batch()
    with pytest.raises(ValueError, match="attention_masks"):
        build(narrowed())(tokens, positions)
