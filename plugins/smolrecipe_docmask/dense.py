"""Document-masked attention that runs anywhere: torch's scaled dot product under a dense mask.

Shape suffixes as in torchtitan: B batch, L length, N heads, H head dimension. Their order in the argument names is
fixed: torchtitan's sharding refers to ``q_BLNH``, ``k_BLNH`` and ``v_BLNH``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch  # noqa: TID253
import torch.nn.functional as F  # noqa: TID253
from torchtitan.protocols.module import Module  # noqa: TID253


class DenseDocumentAttention(Module):
    """Causal attention within documents."""

    @dataclass(kw_only=True, slots=True)
    class Config(Module.Config):
        """Nothing to configure."""

    def __init__(self, config: Config) -> None:
        super().__init__()

    @staticmethod
    def build_mask(positions: torch.Tensor, query_start: int = 0, query_length: int | None = None) -> torch.Tensor:
        """Which keys each query may attend to: those of its own document up to itself.

        Args:
            positions: shape (B, L), position of each token in its document; 0 starts a document, and so does a row.
            query_start: first of the queries that the mask is for, where a device holds only a slice of the sequence.
            query_length: how many queries; all from ``query_start`` on where not given.

        Returns:
            Boolean, shape (B, 1, query_length, L), ``True`` = attend. Memory is quadratic in the sequence length.
        """
        length = positions.shape[1]
        query_end = length if query_length is None else query_start + query_length
        document = (positions == 0).cumsum(dim=1)
        order = torch.arange(length, device=positions.device)
        same = document[:, query_start:query_end, None] == document[:, None, :]
        past = order[query_start:query_end, None] >= order[None, :]
        return (same & past)[:, None]

    def forward(
        self,
        q_BLNH: torch.Tensor,
        k_BLNH: torch.Tensor,
        v_BLNH: torch.Tensor,
        *,
        attention_masks: torch.Tensor | None = None,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        """Attend under the mask of ``build_mask``; the result has the shape of ``q_BLNH``.

        Raises:
            ValueError: without a mask. Attending to everything, the future included, must not happen silently.
        """
        if attention_masks is None:
            raise ValueError("DenseDocumentAttention needs attention_masks: the result of build_mask(positions)")
        out_BNLH = F.scaled_dot_product_attention(
            q_BLNH.transpose(1, 2),
            k_BLNH.transpose(1, 2),
            v_BLNH.transpose(1, 2),
            attn_mask=attention_masks,
            scale=scale,
            enable_gqa=enable_gqa,
        )
        return out_BNLH.transpose(1, 2)
