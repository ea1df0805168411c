"""Windows for torch's FlexAttention, of which torchtitan makes one block mask for all layers."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch.nn.attention.flex_attention import BlockMask, and_masks
from torchtitan.models.common.attention import FlexAttention, create_attention_mask, get_sliding_window_mask_mod

_narrowed: WeakKeyDictionary[BlockMask, dict[int, BlockMask]] = WeakKeyDictionary()
"""The narrowed forms of each mask in use: all layers with one window share one, for one forward pass."""


class WindowedFlexAttention(FlexAttention):
    """FlexAttention under the mask that it is given and a window."""

    @dataclass(kw_only=True, slots=True)
    class Config(FlexAttention.Config):
        """FlexAttention's, with how many tokens a query sees."""

        window: int = 1

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.window = config.window

    @classmethod
    def of(cls, config: FlexAttention.Config, window: int) -> Config:
        """The config of the same kernel with a window."""
        return cls.Config(**{field.name: getattr(config, field.name) for field in fields(config)}, window=window)

    def forward(
        self,
        q_BLNH: torch.Tensor,
        k_BLNH: torch.Tensor,
        v_BLNH: torch.Tensor,
        *,
        attention_masks: BlockMask,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Attend; the result has the shape of ``q_BLNH``."""
        mask = narrow(attention_masks, self.window)
        return super().forward(q_BLNH, k_BLNH, v_BLNH, attention_masks=mask, **kwargs)


def narrow(mask: BlockMask, window: int) -> BlockMask:
    """The block mask that also asks for the window, made once for each mask."""
    made = _narrowed.setdefault(mask, {})
    if window not in made:
        length, keys = mask.seq_lengths
        made[window] = create_attention_mask(
            and_masks(mask.mask_mod, get_sliding_window_mask_mod(window)),
            mask.kv_num_blocks.shape[0],
            None,
            length,
            keys,
            device=mask.kv_num_blocks.device,
            BLOCK_SIZE=mask.BLOCK_SIZE,
        )
    return made[window]
