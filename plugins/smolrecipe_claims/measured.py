"""What was measured of a model: by the stage that made it, by an evaluation, or as its configuration has it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from smolrecipe import StageContext, StageError, StageRef, near_miss
from smolrecipe.published import read_record
from smolrecipe.stage import STAGE_FILE
from smolrecipe_claims import KV_CACHE, ClaimsOptions

_BFLOAT16_BYTES = 2


def measured(model: StageRef, measure: str, options: ClaimsOptions, context: StageContext) -> float:
    """A measure of a model, in its own unit.

    Raises:
        StageError: when nothing of that name was measured of the model, or two different numbers, or no finite one.
    """
    found = everything_measured(model, options, context)
    values = found.get(measure)
    if values is None:
        near = near_miss(measure, found) or f"; there are {', '.join(found)}"
        raise StageError(f"'{measure}' was not measured of '{model}'{near}")
    if len(values) > 1:
        raise StageError(f"'{measure}' of '{model}' was measured by {' and by '.join(values)}: name one of them apart")
    ((by, value),) = values.items()
    if not math.isfinite(value):
        raise StageError(f"'{measure}' of '{model}', measured by {by}, is {value}: that is nothing to compare")
    return value


def everything_measured(model: StageRef, options: ClaimsOptions, context: StageContext) -> dict[str, dict[str, float]]:
    """All measures of a model by name, each with who has measured it."""
    found: dict[str, dict[str, float]] = {KV_CACHE: {"its configuration": _kv_cache(model, context)}}
    if not model.checkpoint:  # a stage measures what it ends with
        for measure in _record(model, context)["measures"]:
            found.setdefault(measure["name"], {})[f"its own stage '{model}'"] = float(measure["after"])
    for evaluation in options.scores:
        scores = _record(evaluation, context)["summary"].get("scores")
        of_model = scores.get(str(model)) if isinstance(scores, dict) else None
        for task, score in (of_model if isinstance(of_model, dict) else {}).items():
            value = score.get("score") if isinstance(score, dict) else None
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                found.setdefault(task, {})[f"'{evaluation}'"] = float(value)
    return found


def _kv_cache(model: StageRef, context: StageContext) -> float:
    """2 (keys and values) x layers x key-value heads x head size x 2 bytes (GQA, arXiv:2305.13245)."""
    file = context.input(model) / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    try:
        heads = config["num_attention_heads"]
        kv_heads = config.get("num_key_value_heads") or heads
        head_dim = config.get("head_dim") or config["hidden_size"] // heads
        return float(2 * config["num_hidden_layers"] * kv_heads * head_dim * _BFLOAT16_BYTES)
    except (KeyError, TypeError) as error:
        raise StageError(f"{file} does not say how large the model's KV cache is: {error}") from None


def _record(stage: StageRef, context: StageContext) -> Mapping[str, Any]:
    try:
        return read_record(context.inputs[stage.stage] / STAGE_FILE)
    except ValueError as error:
        raise StageError(str(error)) from None
