"""Narrowing the inner attention of a drafted decoder, whichever it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torchtitan.models.common.attention import FlexAttention, ScaledDotProductAttention, VarlenAttention

from smolrecipe import ModelDraft, StageError
from smolrecipe_sliding_window import SlidingWindowOptions, check_draft
from smolrecipe_sliding_window.dense import MaskedAttention, RowAttention
from smolrecipe_sliding_window.flex import WindowedFlexAttention


def apply(draft: ModelDraft, options: SlidingWindowOptions) -> None:
    """See ``smolrecipe_sliding_window.apply``."""
    layers = draft.layers("sliding_window")
    if refusal := next(iter(check_draft(options, draft)), None):
        raise StageError(refusal)
    for index, layer in enumerate(layers):
        if not hasattr(layer.attention, "inner_attention"):
            raise StageError(
                f"model component 'sliding_window' cannot edit layer {index}: its attention has no inner attention"
            )
        if isinstance(layer.attention.inner_attention, (MaskedAttention.Config, WindowedFlexAttention.Config)):
            raise StageError(f"model component 'sliding_window' finds a window in layer {index} already: list it once")
    windowed = [_rotates(layer.attention.rope) for layer in layers]
    if not any(windowed):
        raise StageError(
            "model component 'sliding_window' finds no layer that rotates: leave it out, or the component that stops "
            "all of them"
        )
    for layer, has_window in zip(layers, windowed, strict=True):
        layer.attention.inner_attention = _narrowed(layer.attention.inner_attention, options.window, has_window)


def _rotates(rope: Any) -> bool:
    """Whether the rotary module turns what is not at the start; so that it does not matter who made it."""
    ones = torch.ones(1, 2, 1, rope.dim)
    turned, _ = replace(rope, max_seq_len=2).build()(ones, ones, torch.arange(2)[None])
    return not torch.equal(turned, ones)


def _narrowed(inner: Any, window: int, has_window: bool) -> Any:
    """A config of the same attention in a layer with or without the window.

    Dense attention gets its masking module in layers without the window too: one mask is made for all layers.
    """
    if isinstance(inner, VarlenAttention.Config):
        return replace(inner, window_size=(window - 1, 0)) if has_window else inner
    if isinstance(inner, FlexAttention.Config):
        return WindowedFlexAttention.of(inner, window) if has_window else inner
    if isinstance(inner, ScaledDotProductAttention.Config):
        return RowAttention.Config(inner=None, window=window, windowed=has_window)
    module = type(inner)._owner
    keeps_documents = getattr(module, "sees_documents", hasattr(module, "build_mask"))
    kind = MaskedAttention if keeps_documents else RowAttention
    return kind.Config(inner=inner, window=window, windowed=has_window)
