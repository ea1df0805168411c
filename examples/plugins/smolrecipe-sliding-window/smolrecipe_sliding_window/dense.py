"""Windows by a dense mask, for any attention that takes one: on a CPU, and wherever nothing faster was chosen.

Shape suffixes as in torchtitan: B batch, L length, N heads, H head dimension. Their order in the argument names is
fixed: torchtitan's sharding refers to ``q_BLNH``, ``k_BLNH`` and ``v_BLNH``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torchtitan.protocols.module import Module

FULL, WINDOWED = 0, 1
"""Where in the pair of masks each lies."""


class MaskedAttention(Module):
    """The attention of ``inner``, which keeps documents apart, in a layer with or without the window.

    The decoder calls the first layer's ``build_mask`` and hands the result to every layer. So the result is a pair, the
    mask of layers that see everything and that of layers with the window, and each layer takes its own.
    """

    sees_documents = True

    @dataclass(kw_only=True, slots=True)
    class Config(Module.Config):
        """The attention that was there before, the window of the model, and whether this layer has it.

        Without ``inner`` it is torch's scaled dot product.
        """

        inner: Module.Config | None
        window: int
        windowed: bool

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.inner = _ScaledDotProduct() if config.inner is None else config.inner.build()
        self.window = config.window
        self.windowed = config.windowed

    def build_mask(self, positions: torch.Tensor) -> torch.Tensor:
        """Both masks for ``positions`` of shape (B, L): Boolean, shape (2, B or 1, 1, L, L), ``True`` = attend."""
        length = positions.shape[1]
        order = torch.arange(length, device=positions.device)
        if hasattr(self.inner, "build_mask"):
            full = self.inner.build_mask(positions)
        else:
            full = (order[:, None] >= order[None, :])[None, None]
        return torch.stack([full, full & (order[:, None] - order[None, :] < self.window)])

    def forward(
        self,
        q_BLNH: torch.Tensor,
        k_BLNH: torch.Tensor,
        v_BLNH: torch.Tensor,
        *,
        attention_masks: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Attend; the result has the shape of ``q_BLNH``.

        ``attention_masks`` is the pair of ``build_mask``; a mask of four dimensions is this layer's own, used as it is.

        Raises:
            ValueError: without a mask. Attending further than the window must not happen silently.
        """
        if attention_masks is None:
            raise ValueError("windowed attention needs attention_masks: the result of build_mask(positions)")
        if attention_masks.ndim == 5:
            attention_masks = attention_masks[WINDOWED if self.windowed else FULL]
        out_BLNH: torch.Tensor = self.inner(q_BLNH, k_BLNH, v_BLNH, attention_masks=attention_masks, **kwargs)
        return out_BLNH


class _ScaledDotProduct(Module):
    """Torch's attention under a mask, which torchtitan's own module for it refuses."""

    def forward(
        self, q_BLNH: torch.Tensor, k_BLNH: torch.Tensor, v_BLNH: torch.Tensor, *, attention_masks: Any, **kwargs: Any
    ) -> torch.Tensor:
        q_BNLH, k_BNLH, v_BNLH = (tensor.transpose(1, 2) for tensor in (q_BLNH, k_BLNH, v_BLNH))
        return F.scaled_dot_product_attention(q_BNLH, k_BNLH, v_BNLH, attn_mask=attention_masks, **kwargs).transpose(
            1, 2
        )


class RowAttention(MaskedAttention):
    """The same around attention over whole rows, in which documents are not told apart."""

    sees_documents = False

    @dataclass(kw_only=True, slots=True)
    class Config(MaskedAttention.Config):
        """A config of its own, without which torchtitan would build the parent."""
