"""Grouped-query attention on torchtitan's ``GQAttention`` config."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torchtitan.models.common.attention import GQAttention, QKVLinear  # noqa: TID253

from smolrecipe import ModelDraft, StageError
from smolrecipe_gqa import GqaOptions


def apply(draft: ModelDraft, options: GqaOptions) -> None:
    """See ``smolrecipe_gqa.apply``."""
    for index, layer in enumerate(draft.layers("gqa")):
        layer.attention = _regroup(layer.attention, options, index)


def _regroup(attention: Any, options: GqaOptions, index: int) -> GQAttention.Config:
    """A copy of the attention config with other heads: only shapes change, so each layer keeps its initialisers."""
    if not isinstance(attention, GQAttention.Config):
        raise StageError(
            f"model component 'gqa' cannot edit layer {index}: its attention is {_kind(attention)}, "
            "not torchtitan's GQAttention"
        )
    qkv = attention.qkv_linear
    if not isinstance(qkv, QKVLinear.Config):
        # A fused projection's initialiser is a closure over the old head counts.
        raise StageError(
            f"model component 'gqa' cannot edit layer {index}: its projections are {_kind(qkv)}; "
            "list 'gqa' before the component that fuses them"
        )
    head_dim = _head_dim(attention, options)
    return replace(
        attention,
        n_heads=options.num_heads,
        n_kv_heads=options.num_kv_heads,
        head_dim=head_dim,
        qkv_linear=replace(
            qkv,
            head_dim=head_dim,
            wq=replace(qkv.wq, out_features=options.num_heads * head_dim),
            wkv=replace(qkv.wkv, out_features=options.num_kv_heads * head_dim),
        ),
        wo=replace(attention.wo, in_features=options.num_heads * head_dim),
        qk_norm=attention.qk_norm and replace(attention.qk_norm, normalized_shape=head_dim),
        rope=replace(attention.rope, dim=head_dim),
    )


def _head_dim(attention: GQAttention.Config, options: GqaOptions) -> int:
    if options.head_dim is not None:
        return options.head_dim
    if attention.head_dim is not None and attention.head_dim * attention.n_heads != attention.dim:
        raise StageError(
            f"the decoder's heads have a width of their own ({attention.head_dim}) and model component 'gqa' "
            "would undo it: give head_dim in 'gqa' too"
        )
    if attention.dim % (2 * options.num_heads):
        raise StageError(
            f"hidden_size ({attention.dim}) divided by num_heads ({options.num_heads}) of model component 'gqa' is not "
            "an even whole number: choose another num_heads, or give head_dim"
        )
    return int(attention.dim) // options.num_heads


def _kind(config: object) -> str:
    return type(config).__qualname__.removesuffix(".Config")
