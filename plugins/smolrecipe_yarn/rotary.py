"""YaRN's rotary module: torchtitan's own rescales the frequencies but leaves the attention factor to the model."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch  # noqa: TID253
from torchtitan.models.common.rope import ComplexRoPE, CosSinRoPE, RoPE  # noqa: TID253

from smolrecipe import ModelDraft, StageError
from smolrecipe_yarn import YarnOptions, max_positions


def attention_factor(factor: float) -> float:
    """The factor on cosines and sines for a context ``factor`` times longer (arXiv:2309.00071, equation 22)."""
    return 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0


def frequencies(
    dim: int, theta: float, factor: float, original_positions: int, beta_fast: float, beta_slow: float
) -> torch.Tensor:
    """Angles per position in radians, shape (dim / 2,), float32 ("NTK-by-parts", arXiv:2309.00071, section 3.2).

    Written in the order of operations of transformers' ``_compute_yarn_parameters``, so that both agree to the bit.

    Args:
        dim: width of a head.
        theta: base of the frequencies.
        factor: how many times longer the context becomes.
        original_positions: longest sequence that the model was trained on, in tokens.
        beta_fast: turns over the original context from which a frequency stays as it is.
        beta_slow: turns over the original context up to which a frequency is divided by ``factor``.
    """
    powers = theta ** (torch.arange(0, dim, 2).float() / dim)

    def pair_that_turns(times: float) -> float:
        return dim * math.log(original_positions / (times * 2 * math.pi)) / (2 * math.log(theta))

    low: float = max(math.floor(pair_that_turns(beta_fast)), 0)
    high: float = min(math.ceil(pair_that_turns(beta_slow)), dim - 1)
    if low == high:
        high += 0.001  # a step instead of a ramp
    kept = 1 - ((torch.arange(dim // 2).float() - low) / (high - low)).clamp(0, 1)
    return 1.0 / (factor * powers) * (1 - kept) + 1.0 / powers * kept


class YarnRoPE(CosSinRoPE):
    """Rotate-half rotary embeddings with YaRN's frequencies, cosines and sines multiplied by the attention factor."""

    @dataclass(kw_only=True, slots=True)
    class Config(CosSinRoPE.Config):
        """torchtitan's rotary config (``rope_factor``, ``beta_fast``, ``beta_slow``, ``original_seq_len``) and more."""

        attention_factor: float = 1.0

    def _precompute_cache(self) -> torch.Tensor:
        """Cosines, then sines, shape (max_seq_len, 2 * dim), as ``CosSinRoPE`` lays them out."""
        config = self.config
        assert isinstance(config, YarnRoPE.Config)
        per_position = frequencies(
            config.dim, config.theta, config.rope_factor, config.original_seq_len, config.beta_fast, config.beta_slow
        )
        angles = torch.outer(torch.arange(config.max_seq_len).float(), per_position)
        angles = torch.cat([angles, angles], dim=-1)
        return torch.cat([angles.cos(), angles.sin()], dim=-1) * config.attention_factor


def apply(draft: ModelDraft, options: YarnOptions) -> None:
    """See ``smolrecipe_yarn.apply``."""
    rescaled = 0
    for index, layer in enumerate(draft.layers("yarn")):
        rope = _rescale(getattr(layer.attention, "rope", None), options, index)
        rescaled += isinstance(rope, YarnRoPE.Config)
        layer.attention.rope = rope
    if not rescaled:
        raise StageError("model component 'yarn' has nothing to rescale: no layer of the decoder rotates")


def _rescale(rope: Any, options: YarnOptions, index: int) -> RoPE.Config:
    if not isinstance(rope, RoPE.Config):
        raise StageError(f"model component 'yarn' cannot edit layer {index}: its attention has no rotary module")
    if isinstance(rope, ComplexRoPE.Config):
        raise StageError(
            f"model component 'yarn' cannot edit layer {index}: it rotates interleaved pairs; list 'rope' before 'yarn'"
        )
    if rope.scaling != "none":
        raise StageError(
            f"model component 'yarn' cannot edit layer {index}: its frequencies are already scaled ('{rope.scaling}')"
        )
    if not isinstance(rope, CosSinRoPE.Config):
        # A layer without rotation: nothing to rescale, but the bound holds for the whole model.
        return replace(rope, max_seq_len=max_positions(options))
    given = options.attention_factor
    return YarnRoPE.Config(
        dim=rope.dim,
        max_seq_len=max_positions(options),
        theta=rope.theta,
        scaling="yarn",
        rope_factor=options.factor,
        original_seq_len=options.original_max_positions,
        beta_fast=options.beta_fast,
        beta_slow=options.beta_slow,
        attention_factor=attention_factor(options.factor) if given is None else given,
    )
