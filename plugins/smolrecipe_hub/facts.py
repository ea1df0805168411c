"""Numbers out of records and configurations, which may say anything: a value of the wrong type is no value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smolrecipe.checkpoint import CONFIG_FILE, stored_tensors
from smolrecipe.strict_json import read_mapping
from smolrecipe_hub.lineage import Published


def number(value: Any) -> float | None:
    """A finite number, ``None`` for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return value


def whole(value: Any) -> int | None:
    """A whole number, ``None`` for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def mapping(value: Any) -> Mapping[str, Any]:
    """A mapping, an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def count(value: Any) -> str:
    """A count with thousands separated, nothing where there is none."""
    found = whole(value)
    return "" if found is None else f"{found:,}"


def config_of(artifact: Published) -> Mapping[str, Any]:
    """What the artifact's ``config.json`` says; nothing where it has none that can be read."""
    try:
        return read_mapping(artifact.model / CONFIG_FILE, most_bytes=2**24)
    except ValueError:
        return {}


def theta_of(config: Mapping[str, Any]) -> float | None:
    """The base of the rotary frequencies in a ``config.json``, in either of the two ways in which it is written."""
    return number(mapping(config.get("rope_parameters")).get("rope_theta")) or number(config.get("rope_theta"))


def parameters_of(model: Path) -> int:
    """How many numbers the model's tensors hold; tied embeddings are stored, and counted, once."""
    return sum(math.prod(tensor.shape) for tensor in stored_tensors(model).values())


def row_length(artifact: Published) -> int | None:
    """Tokens in a row that the stage trained on, ``None`` for one that does not train."""
    return whole(artifact.options.get("sequence_length")) or whole(artifact.options.get("max_length"))


def steps_of(artifact: Published) -> int | None:
    """Optimizer steps that the stage made."""
    return whole(artifact.summary.get("steps")) if row_length(artifact) is not None else None


def tokens_of(artifact: Published) -> int | None:
    """Tokens that the stage trained on, ``None`` where it does not train or counts something else."""
    if row_length(artifact) is None:
        return None
    tokens = whole(artifact.summary.get("tokens"))
    if tokens is not None:
        return tokens
    a_pass, passes = number(artifact.summary.get("tokens_per_pass")), number(artifact.summary.get("passes"))
    return None if a_pass is None or passes is None else round(a_pass * passes)


def amount(artifact: Published) -> str:
    """What the stage trained on, as words: tokens, or pairs of answers."""
    tokens = tokens_of(artifact)
    if tokens is not None:
        return f"{tokens:,}"
    pairs, passes = number(artifact.summary.get("pairs")), number(artifact.summary.get("passes"))
    return "" if pairs is None or passes is None else f"{round(pairs * passes):,} pairs"
