"""Scores from samples, with standard errors over them: what lm-eval does not give for RULER and perplexities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

MEAN_METRIC = "string_match"
"""RULER's: the share of the words asked for that the answer has."""

BYTE_METRIC, TOKEN_METRIC = "bits_per_byte", "perplexity"


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean with its standard error; of a single value, an error of 0."""
    count = len(values)
    mean = math.fsum(values) / count
    spread = math.fsum((value - mean) ** 2 for value in values)
    return mean, math.sqrt(spread / (count - 1) / count) if count > 1 else 0.0


def ratio_and_error(parts: Sequence[float], wholes: Sequence[float]) -> tuple[float, float]:
    """The sum of ``parts`` over that of ``wholes``, one of each for a sample, with the standard error of that ratio.

    By linearization, as of any ratio estimate (Cochran, Sampling Techniques, 3rd edition, equation 6.13).
    """
    count, whole = len(parts), math.fsum(wholes)
    ratio = math.fsum(parts) / whole
    spread = math.fsum((part - ratio * each) ** 2 for part, each in zip(parts, wholes, strict=True))
    return ratio, math.sqrt(spread * count / (count - 1)) / whole if count > 1 else 0.0


def perplexities(documents: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, float, float]]:
    """Of documents with ``loglikelihood`` in nats, ``bytes`` and ``tokens``: suffix of the score's name -> metric,
    value and standard error over documents.
    """
    nats = [-document["loglikelihood"] for document in documents]
    per_byte, byte_error = ratio_and_error(nats, [document["bytes"] for document in documents])
    per_token, token_error = ratio_and_error(nats, [document["tokens"] for document in documents])
    perplexity = math.exp(min(per_token, 700.0))  # the largest that a float holds
    return {
        ", per byte": (BYTE_METRIC, per_byte / math.log(2), byte_error / math.log(2)),
        ", per token": (TOKEN_METRIC, perplexity, perplexity * token_error),
    }


def record(metric: str, value: float, error: float | None, samples: int, better: bool) -> dict[str, Any]:
    """A score as ``results/<model>.json`` keeps those of lm-eval's own tasks."""
    metrics = {f"{metric},none": value}
    if error is not None:
        metrics[f"{metric}_stderr,none"] = error
    return {"metrics": metrics, "higher_is_better": {metric: better}, "samples": samples}
