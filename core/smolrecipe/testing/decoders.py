"""The decoder that the kit tries model components on, and what can be seen of a decoder's config.

It is what a component may count on: torchtitan's Llama 3 model with grouped-query attention, rotate-half rotary
embeddings, gated SiLU and RMS norms; 4 layers, width 64, 4 heads, a vocabulary of 128.

Shape suffixes: B batch, L sequence length, N heads, H head dimension.
"""

# mypy: disable-error-code="import-untyped, misc, no-any-return, no-untyped-call"

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch  # noqa: TID253
import torch.nn.functional as F  # noqa: TID253
from torch import nn  # noqa: TID253
from torchtitan.models.common import CosSinRoPE, Embedding, Linear, RMSNorm  # noqa: TID253
from torchtitan.models.common.attention import FlexAttention, VarlenAttention  # noqa: TID253
from torchtitan.models.common.config_utils import make_ffn_config, make_gqa_config  # noqa: TID253
from torchtitan.models.llama3.model import Llama3Model, Llama3TransformerBlock  # noqa: TID253
from torchtitan.protocols.module import Module  # noqa: TID253

from smolrecipe.model import HfConfig, ModelDraft

LAYERS, WIDTH, HEADS, VOCABULARY, LENGTH, BATCH = 4, 64, 4, 128, 32, 2
STD = 0.02

HF_PARAMETERS = {
    "tok_embeddings.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "lm_head.weight": "lm_head.weight",
    "layers.{}.attention_norm.weight": "model.layers.{}.input_layernorm.weight",
    "layers.{}.attention.qkv_linear.wq.weight": "model.layers.{}.self_attn.q_proj.weight",
    "layers.{}.attention.qkv_linear.wk.weight": "model.layers.{}.self_attn.k_proj.weight",
    "layers.{}.attention.qkv_linear.wv.weight": "model.layers.{}.self_attn.v_proj.weight",
    "layers.{}.attention.wo.weight": "model.layers.{}.self_attn.o_proj.weight",
    "layers.{}.ffn_norm.weight": "model.layers.{}.post_attention_layernorm.weight",
    "layers.{}.feed_forward.w1.weight": "model.layers.{}.mlp.gate_proj.weight",
    "layers.{}.feed_forward.w3.weight": "model.layers.{}.mlp.up_proj.weight",
    "layers.{}.feed_forward.w2.weight": "model.layers.{}.mlp.down_proj.weight",
}
"""torchtitan's parameter names -> those of Hugging Face's Llama-like models."""


class CausalAttention(Module):
    """Causal attention over the whole row; torchtitan's sharding fixes the names of the first three arguments."""

    @dataclass(kw_only=True, slots=True)
    class Config(Module.Config):
        """Nothing to configure."""

    def __init__(self, config: Config) -> None:
        super().__init__()

    def forward(
        self,
        q_BLNH: torch.Tensor,
        k_BLNH: torch.Tensor,
        v_BLNH: torch.Tensor,
        *,
        attention_masks: torch.Tensor | None = None,
        scale: float | None = None,
        enable_gqa: bool = False,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Attend; the result has the shape of ``q_BLNH``."""
        out_BNLH = F.scaled_dot_product_attention(
            q_BLNH.transpose(1, 2),
            k_BLNH.transpose(1, 2),
            v_BLNH.transpose(1, 2),
            attn_mask=attention_masks,
            is_causal=attention_masks is None,
            scale=scale,
            enable_gqa=enable_gqa,
        )
        return out_BNLH.transpose(1, 2)


class PlainDecoder(Llama3Model):
    """torchtitan's Llama 3 model that asks its inner attention for a mask, as the decoders of recipes do."""

    @dataclass(kw_only=True, slots=True)
    class Config(Llama3Model.Config):
        """Llama 3's."""

    def forward(
        self, tokens: torch.Tensor, positions: torch.Tensor | None = None, attention_masks: Any = None
    ) -> torch.Tensor:
        """Logits, shape (B, L, vocabulary)."""
        first: Any = next(iter(self.layers.values()))
        build_mask = getattr(first.attention.inner_attention, "build_mask", None)
        if attention_masks is None and build_mask is not None:
            attention_masks = build_mask(positions)
        return super().forward(tokens, positions, attention_masks)


def empty_draft(device: Literal["cpu", "cuda"], **what: Any) -> ModelDraft:
    """A draft that no component has edited. ``what`` is what it is built for, where that is to differ."""
    return ModelDraft(device=device, **{"sequence_length": LENGTH, **what})


def plain_draft(device: Literal["cpu", "cuda"], **what: Any) -> ModelDraft:
    """A draft with the kit's decoder, of which nothing is shared with any other draft."""
    draft = empty_draft(device, **what)
    draft.decoder = PlainDecoder.Config(
        dim=WIDTH,
        vocab_size=VOCABULARY,
        tok_embeddings=Embedding.Config(num_embeddings=VOCABULARY, embedding_dim=WIDTH, param_init=_normal()),
        norm=_norm(),
        lm_head=Linear.Config(in_features=WIDTH, out_features=VOCABULARY, param_init=_normal()),
        layers=[_layer(draft.sequence_length) for _ in range(LAYERS)],
    )
    draft.hf_parameters.update(HF_PARAMETERS)
    return draft


def _layer(length: int) -> Llama3TransformerBlock.Config:
    return Llama3TransformerBlock.Config(
        attention_norm=_norm(),
        ffn_norm=_norm(),
        attention=make_gqa_config(
            dim=WIDTH,
            n_heads=HEADS,
            n_kv_heads=HEADS,
            wqkv_param_init=_normal(),
            wo_param_init=_normal(),
            inner_attention=CausalAttention.Config(),
            rope=CosSinRoPE.Config(dim=WIDTH // HEADS, max_seq_len=length),
        ),
        feed_forward=make_ffn_config(
            dim=WIDTH, hidden_dim=2 * WIDTH, w1_param_init=_normal(), w2w3_param_init=_normal()
        ),
    )


def _norm() -> RMSNorm.Config:
    return RMSNorm.Config(normalized_shape=WIDTH, eps=1e-6, param_init={"weight": nn.init.ones_})


def _normal() -> dict[str, Any]:
    return {"weight": partial(nn.init.normal_, std=STD)}


def on_meta(decoder: Any) -> Any:
    """The model of a decoder config, without memory."""
    with torch.device("meta"):
        return decoder.build()


def initialised(decoder: Any, device: str) -> Any:
    """The model with its initial weights; what no initialiser has filled is NaN."""
    model = on_meta(decoder).to_empty(device=device)
    with torch.no_grad(), torch.random.fork_rng():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.fill_(torch.nan)
        torch.manual_seed(0)
        model.init_weights(buffer_device=None)
    return model.float()


def logits(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """What the model predicts, with the masks that torchtitan's trainer builds; one row holds two documents."""
    positions = torch.arange(tokens.shape[1]).repeat(len(tokens), 1)
    positions[-1, tokens.shape[1] // 2 :] -= tokens.shape[1] // 2
    positions = positions.to(tokens.device)
    config = model.config
    inner = getattr(config.first_attention, "inner_attention", None)
    masks = None
    if isinstance(inner, (FlexAttention.Config, VarlenAttention.Config)):
        masks = model.get_attention_masks(positions=positions)
    predicted: torch.Tensor = model(tokens, positions, masks)
    return predicted


def configs_in(value: Any) -> Iterator[Any]:
    """Every module's config in a tree of configs: what an engine writes into."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if isinstance(value, Module.Config):
            yield value
        for field in dataclasses.fields(value):
            yield from configs_in(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from configs_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from configs_in(item)


def described(value: Any, path: str = "decoder") -> dict[str, Any]:
    """A tree of configs as path -> plain value, so that two trees can be compared; functions by what they do."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found: dict[str, Any] = {path: type(value).__qualname__}
        for field in dataclasses.fields(value):
            found.update(described(getattr(value, field.name), f"{path}.{field.name}"))
        return found
    if isinstance(value, Mapping):
        return {path: "mapping"} | {
            key: item for name, inner in value.items() for key, item in described(inner, f"{path}[{name!r}]").items()
        }
    if isinstance(value, (list, tuple)):
        return {path: len(value)} | {
            key: item for index, inner in enumerate(value) for key, item in described(inner, f"{path}[{index}]").items()
        }
    if isinstance(value, functools.partial):
        return described(value.func, path) | described([value.args, value.keywords], f"{path}()")
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return {path: value.__qualname__} | described([cells, value.__defaults__ or ()], f"{path}()")
    if isinstance(value, torch.Tensor):
        return {path: value.tolist()}
    plain = value is None or isinstance(value, (str, int, float, bool, type, torch.dtype))
    return {path: value if plain else getattr(value, "__qualname__", type(value).__qualname__)}


def differences(one: Any, other: Any) -> list[str]:
    """Where two decoder configs differ, as a person would name it."""
    left, right = described(one), described(other)
    missing = object()
    return [
        f"{path} ({left.get(path, 'nothing')} and {right.get(path, 'nothing')})"
        for path in {**left, **right}
        if left.get(path, missing) != right.get(path, missing)
    ]


def plain_config() -> HfConfig:
    """What a component finds in a ``config.json`` whose decoder is the kit's."""
    return {
        "model_type": "smollm3",
        "architectures": ["SmolLM3ForCausalLM"],
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": WIDTH // HEADS,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "max_position_embeddings": LENGTH,
        "no_rope_layers": [1] * LAYERS,
    }
