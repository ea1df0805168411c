"""Attention of packed rows on a CPU: torch's causal one, document by document, in place of a dense mask of the row.

What it costs follows the documents: eight rows of 256 tokens laid end to end are 2,048, of which the dense mask has
four million entries for documents of sixty.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch  # noqa: TID253
import torch.nn.functional as F  # noqa: TID253
from transformers import AttentionInterface, PretrainedConfig  # noqa: TID253

KERNEL = "smolrecipe_documentwise"
"""Its name among transformers' kernels. Without a mask function of that name, transformers makes no mask."""

_PLAIN = {"llama", "qwen2", "qwen3", "smollm3"}
"""Types of models whose attention is nothing but causal, and which hand it the positions."""


def can_attend(config: PretrainedConfig) -> bool:
    """Whether it computes what the model is defined by: causal attention, without windows."""
    has_window = getattr(config, "use_sliding_window", True) and getattr(config, "sliding_window", None) is not None
    return config.model_type in _PLAIN and not has_window


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    position_ids: torch.Tensor,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend, as transformers' attention functions do.

    Args:
        module: the attention that asks.
        query: shape (rows, heads, length, head dimension); keys and values alike, with as many heads or fewer.
        key: see ``query``.
        value: see ``query``.
        attention_mask: None. Rows are padded at their ends, if at all, which causal attention does not see.
        position_ids: shape (rows or 1, length); a document starts where one is 0.
        dropout: the probability.
        scaling: of the scores.
        kwargs: what other kernels take.

    Returns:
        The result, shape (rows, length, heads, head dimension), and no weights.
    """
    if attention_mask is not None:
        raise ValueError(f"attention '{KERNEL}' takes no mask: documents are told by their positions")
    settings: dict[str, Any] = {"dropout_p": dropout, "scale": scaling, "is_causal": True, "enable_gqa": True}
    rows, length = query.shape[0], query.shape[2]
    edges = _edges(position_ids.expand(rows, length))
    if len(edges) == rows + 1:  # nothing is packed
        return F.scaled_dot_product_attention(query, key, value, **settings).transpose(1, 2), None
    lengths = [end - start for start, end in pairwise(edges)]
    documents = [x.transpose(0, 1).flatten(1, 2)[None].split(lengths, dim=2) for x in (query, key, value)]
    attended = [F.scaled_dot_product_attention(*document, **settings) for document in zip(*documents, strict=True)]
    return torch.cat(attended, dim=2)[0].transpose(0, 1).unflatten(0, (rows, length)), None


def _edges(positions: torch.Tensor) -> list[int]:
    """Where documents begin in all rows laid end to end, and where the last ends."""
    starts = positions == 0
    starts[:, 0] = True
    return [*starts.flatten().nonzero().flatten().tolist(), positions.numel()]


AttentionInterface.register(KERNEL, attend)
