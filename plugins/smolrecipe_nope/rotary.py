"""A rotary module that does not rotate."""

from __future__ import annotations

from dataclasses import dataclass

import torch  # noqa: TID253
from torchtitan.models.common.rope import RoPE  # noqa: TID253

from smolrecipe import ModelDraft, StageError
from smolrecipe_nope import NopeOptions


class NoPE(RoPE):
    """Returns queries and keys as they are; its config keeps dimension, bound and base for components after it."""

    @dataclass(kw_only=True, slots=True)
    class Config(RoPE.Config):
        """A config of its own, without which torchtitan would build the parent."""

    def _precompute_cache(self) -> torch.Tensor:
        return torch.empty(0)

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, positions: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``query`` and ``key``, each of shape (B, L, N, H), untouched."""
        return query, key


def apply(draft: ModelDraft, options: NopeOptions) -> None:
    """See ``smolrecipe_nope.apply``."""
    layers = draft.layers("nope")
    if options.every > len(layers):
        raise StageError(
            f"model component 'nope' with every: {options.every} reaches none of the decoder's {len(layers)} layers: "
            "lower it, or leave the component out"
        )
    for index in range(options.every - 1, len(layers), options.every):
        attention = layers[index].attention
        rope = getattr(attention, "rope", None)
        if not isinstance(rope, RoPE.Config):
            raise StageError(f"model component 'nope' cannot edit layer {index}: its attention has no rotary module")
        attention.rope = NoPE.Config(dim=rope.dim, max_seq_len=rope.max_seq_len, theta=rope.theta)
