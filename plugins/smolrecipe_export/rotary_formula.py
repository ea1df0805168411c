"""RoPE's and YaRN's frequencies as the papers write them, in double precision: what ``verify`` compares with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

BETA_FAST = 32.0
BETA_SLOW = 1.0


def frequencies(rope: Mapping[str, Any], dim: int) -> list[float] | None:
    """Angles per position in radians of each pair of dimensions, dim / 2 of them.

    ``rope`` is a ``rope_parameters`` of kind ``default`` (arXiv:2104.09864) or ``yarn`` (arXiv:2309.00071, section 3.2,
    "NTK-by-parts"); ``None`` for other kinds. ``dim`` is the width of a head.
    """
    theta = float(rope["rope_theta"])
    plain = [theta ** (-2 * pair / dim) for pair in range(dim // 2)]
    if rope["rope_type"] == "default":
        return plain
    if rope["rope_type"] != "yarn":
        return None
    factor, original = float(rope["factor"]), float(rope["original_max_position_embeddings"])

    def pair_that_turns(times: float) -> float:
        """The pair, as a real number, that turns so often over the original context."""
        return dim * math.log(original / (2 * math.pi * times)) / (2 * math.log(theta))

    low = max(math.floor(pair_that_turns(rope.get("beta_fast") or BETA_FAST)), 0)
    high = min(math.ceil(pair_that_turns(rope.get("beta_slow") or BETA_SLOW)), dim - 1)
    stretched = []
    for pair, frequency in enumerate(plain):
        ramp = float(pair > low) if low == high else min(max((pair - low) / (high - low), 0.0), 1.0)
        stretched.append(frequency / factor * ramp + frequency * (1 - ramp))
    return stretched


def attention_factor(rope: Mapping[str, Any]) -> float | None:
    """The factor on cosines and sines; ``None`` for kinds not known here.

    YaRN: 0.1 ln(factor) + 1 (arXiv:2309.00071, equation 22), 1 for a factor of at most 1.
    """
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    if rope["rope_type"] in ("default", "linear", "dynamic", "llama3"):
        return 1.0
    if rope["rope_type"] == "yarn" and not (rope.get("mscale") and rope.get("mscale_all_dim")):
        return 0.1 * math.log(rope["factor"]) + 1 if rope["factor"] > 1 else 1.0
    return None
