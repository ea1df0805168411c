"""Document-masked attention through the flash-attn library (github.com/Dao-AILab/flash-attention)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import spmd_types as spmd
import torch  # noqa: TID253
from flash_attn import flash_attn_varlen_func
from spmd_types.runtime import get_partition_spec
from torchtitan.distributed.utils import get_spmd_backend  # noqa: TID253
from torchtitan.models.common.attention import VarlenAttention, VarlenMetadata  # noqa: TID253


class FlashDocumentAttention(VarlenAttention):
    """torchtitan's variable-length attention with flash-attn's kernel: same masks, same shapes."""

    @dataclass(kw_only=True, slots=True)
    class Config(VarlenAttention.Config):
        """A config of its own, which torchtitan's trainer still takes for a varlen one and builds masks for."""

    def forward(
        self,
        q_BLNH: torch.Tensor,
        k_BLNH: torch.Tensor,
        v_BLNH: torch.Tensor,
        *,
        attention_masks: VarlenMetadata,
        scale: float | None = None,
        out_transform: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Attend within the documents of ``attention_masks``; the result has the shape of ``q_BLNH``.

        The kernel computes in bfloat16 (or float16 where the inputs are) and reads grouped heads from the shapes.
        """
        if out_transform is not None:
            raise NotImplementedError("flash-attn's variable-length attention with an out_transform")
        half = q_BLNH.dtype if q_BLNH.dtype in (torch.bfloat16, torch.float16) else torch.bfloat16
        q_TNH, k_TNH, v_TNH = (x.flatten(0, 1).to(half) for x in (q_BLNH, k_BLNH, v_BLNH))
        with spmd.no_typecheck():
            out_TNH: torch.Tensor = flash_attn_varlen_func(
                q_TNH,
                k_TNH,
                v_TNH,
                cu_seqlens_q=attention_masks.cu_seq_q,
                cu_seqlens_k=attention_masks.cu_seq_k,
                max_seqlen_q=attention_masks.max_q,
                max_seqlen_k=attention_masks.max_k,
                softmax_scale=scale,
                causal=True,
                window_size=(self.window_size[0], 0),
                deterministic=torch.are_deterministic_algorithms_enabled(),
            )
        if get_spmd_backend() == "spmd_types" and spmd.is_type_checking():
            # The kernel is opaque to spmd_types: the result is sharded as the queries are.
            spmd.assert_type(out_TNH, spmd.get_local_type(q_TNH), get_partition_spec(q_TNH))
        return out_TNH.view(q_BLNH.shape).to(q_BLNH.dtype)
