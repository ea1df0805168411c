"""Document-masked attention whose cost follows the documents and not the row: torch's causal one, document by document.

Shape suffixes as in ``smolrecipe_docmask.dense``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch  # noqa: TID253
import torch.nn.functional as F  # noqa: TID253

from smolrecipe_docmask.dense import DenseDocumentAttention

LONGEST_MASKED = 256
"""Tokens: rows up to this length are attended to under a dense mask. It costs no more there than a call for each
document, and much less where documents have a few tokens (``benchmarks/masking.py``)."""

DocumentLengths = tuple[int, ...]
"""Of all documents of a batch, row after row. No document goes on in the next row."""


class DocumentwiseAttention(DenseDocumentAttention):
    """Causal attention within documents, one after the other.

    It takes a dense mask too: what others make of ``build_mask`` is attended to as it says.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(DenseDocumentAttention.Config):
        """Nothing to configure."""

    @classmethod
    def build_documents(cls, positions: torch.Tensor) -> DocumentLengths | torch.Tensor:
        """What the decoder asks for in place of a mask where it can.

        Args:
            positions: shape (B, L), position of each token in its document; 0 starts a document, and so does a row.

        Returns:
            The lengths of the documents; for short rows the mask.
        """
        return cls.build_mask(positions) if positions.shape[1] <= LONGEST_MASKED else cls.document_lengths(positions)

    @staticmethod
    def document_lengths(positions: torch.Tensor) -> DocumentLengths:
        """The lengths of the documents of ``positions``, see ``build_documents``; their sum is B * L.

        Time and memory are linear in the tokens.
        """
        starts = positions == 0
        starts[:, 0] = True
        edges = [*starts.flatten().nonzero().flatten().tolist(), positions.numel()]
        return tuple(end - start for start, end in pairwise(edges))

    def forward(
        self,
        q_BLNH: torch.Tensor,
        k_BLNH: torch.Tensor,
        v_BLNH: torch.Tensor,
        *,
        attention_masks: torch.Tensor | DocumentLengths | None = None,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        """Attend within documents of these lengths, or under a dense mask; the result has the shape of ``q_BLNH``.

        Raises:
            ValueError: with neither. Attending to everything, the future included, must not happen silently.
        """
        if not isinstance(attention_masks, tuple):
            return super().forward(
                q_BLNH, k_BLNH, v_BLNH, attention_masks=attention_masks, scale=scale, enable_gqa=enable_gqa
            )
        # A split's gradients are joined once; slices would each have a gradient of the whole batch's size.
        documents = [
            x_BLNH.flatten(0, 1).transpose(0, 1)[None].split(attention_masks, dim=2)
            for x_BLNH in (q_BLNH, k_BLNH, v_BLNH)
        ]
        attended = [
            F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=enable_gqa)
            for q, k, v in zip(*documents, strict=True)
        ]
        return torch.cat(attended, dim=2)[0].transpose(0, 1).unflatten(0, q_BLNH.shape[:2])
