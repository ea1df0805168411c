"""The size of a plain decoder and the work of a token in it, from what its ``config.json`` says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

_FAMILY = ("llama", "smollm3")
"""Model types whose parameters are counted here: plain decoders with gated feed-forwards."""


@frozen(kw_only=True)
class _Decoder:
    width: int
    layers: int
    inner: int
    vocabulary: int
    heads: int
    head: int
    """Width of a head."""
    groups: int
    """Heads that keys and values have."""
    tied: bool


def parameters_of(config: Mapping[str, Any]) -> int | None:
    """How many parameters the model of a ``config.json`` has; ``None`` for a family that is not known here."""
    decoder = _decoder(config)
    if decoder is None:
        return None
    width = decoder.width
    attention = 2 * width * decoder.heads * decoder.head + 2 * width * decoder.groups * decoder.head
    embeddings = decoder.vocabulary * width * (1 if decoder.tied else 2)
    return embeddings + decoder.layers * (attention + 3 * width * decoder.inner + 2 * width) + width


def flops_per_token(config: Mapping[str, Any], length: int) -> float | None:
    """Floating point operations of a training step per token of a row of ``length``; ``None`` for an unknown family.

    6 for each parameter that tokens are multiplied with, and attention over what a causal query sees, half of the row
    on average, as ``DryRun.flops_per_token`` counts. Masks of documents make it less: this is an upper bound.
    """
    decoder, parameters = _decoder(config), parameters_of(config)
    if decoder is None or parameters is None:
        return None
    looked_up = 0 if decoder.tied else decoder.vocabulary * decoder.width
    attention = decoder.layers * decoder.heads * 2 * decoder.head * length / 2
    return 6.0 * (parameters - looked_up + attention)


def rope_theta(config: Mapping[str, Any]) -> float | None:
    """The base of the rotary frequencies, where the configuration tells it."""
    for rotary in (config.get("rope_parameters"), config):
        theta = rotary.get("rope_theta") if isinstance(rotary, Mapping) else None
        if isinstance(theta, (int, float)) and not isinstance(theta, bool):
            return float(theta)
    return None


def _decoder(config: Mapping[str, Any]) -> _Decoder | None:
    needed = ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size", "num_attention_heads")
    numbers = [_number(config, key) for key in needed]
    if config.get("model_type") not in _FAMILY or config.get("attention_bias") or config.get("mlp_bias"):
        return None
    if not all(number is not None and number > 0 for number in numbers):
        return None
    width, layers, inner, vocabulary, heads = (int(config[key]) for key in needed)
    return _Decoder(
        width=width,
        layers=layers,
        inner=inner,
        vocabulary=vocabulary,
        heads=heads,
        head=_number(config, "head_dim") or width // heads,
        groups=_number(config, "num_key_value_heads") or heads,
        tied=bool(config.get("tie_word_embeddings")),
    )


def _number(config: Mapping[str, Any], key: str) -> int | None:
    value = config.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
