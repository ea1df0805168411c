"""Rotary embeddings on torchtitan's configs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torchtitan.models.common.rope import ComplexRoPE, CosSinRoPE, RoPE  # noqa: TID253

from smolrecipe import ModelDraft, StageError
from smolrecipe_rope import RopeOptions


def apply(draft: ModelDraft, options: RopeOptions) -> None:
    """See ``smolrecipe_rope.apply``."""
    for index, layer in enumerate(draft.layers("rope")):
        layer.attention.rope = _rebase(getattr(layer.attention, "rope", None), options, index)


def _rebase(rope: Any, options: RopeOptions, index: int) -> RoPE.Config:
    if not isinstance(rope, RoPE.Config):
        raise StageError(f"model component 'rope' cannot edit layer {index}: its attention has no rotary module")
    if rope.scaling != "none":
        raise StageError(
            f"model component 'rope' would undo the '{rope.scaling}' scaling of the component before it: "
            "list 'rope' before the component that rescales it"
        )
    if isinstance(rope, ComplexRoPE.Config):
        # Interleaved pairs: Hugging Face checkpoints would need their q and k rows permuted.
        return CosSinRoPE.Config(dim=rope.dim, max_seq_len=options.max_positions, theta=options.theta)
    # Replacing keeps the class, so a layer that another component took the rotation from stays without.
    return replace(rope, max_seq_len=options.max_positions, theta=options.theta)
