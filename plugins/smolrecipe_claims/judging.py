"""The ``claims`` stage: the numbers of each arm, their paired difference over seeds, the verdict."""

from __future__ import annotations

import json
from statistics import fmean
from typing import Any, Literal

from smolrecipe import Artifact, Measure, StageContext
from smolrecipe.durable import write_whole
from smolrecipe_claims import ClaimOptions, ClaimsOptions
from smolrecipe_claims.intervals import paired_difference, standard_error, verdict
from smolrecipe_claims.measured import measured

CLAIMS_FILE = "claims.json"


def judge(options: ClaimsOptions, context: StageContext) -> Artifact:
    """Judge every claim, say each verdict, and write all numbers to ``claims.json``.

    Raises:
        StageError: when something was not measured of a model.
    """
    judged = {name: _judge(claim, options, context) for name, claim in options.claims.items()}
    text = json.dumps(judged, indent=2, ensure_ascii=False, allow_nan=False)
    write_whole(context.folder / CLAIMS_FILE, f"{text}\n".encode())
    for number, (name, result) in enumerate(judged.items(), start=1):
        context.say(f"{name}: {result['verdict']}. {options.claims[name].says} {in_words(result)}")
        context.progress(number, len(judged))
    measures = tuple(_measure(name, result) for name, result in judged.items())
    return Artifact(measures=measures, summary={"claims": judged})


def _judge(claim: ClaimOptions, options: ClaimsOptions, context: StageContext) -> dict[str, Any]:
    values = {
        arm: {str(model): measured(model, claim.measure, options, context) for model in models}
        for arm, models in claim.arms.items()
    }
    before, after = (list(of_arm.values()) for of_arm in values.values())
    difference = paired_difference(before, after, options.confidence)
    return {
        "says": claim.says,
        "measure": claim.measure,
        "expect": claim.expect,
        "within": claim.within,
        "arms": {
            arm: {
                "mean": fmean(of_arm.values()),
                "stderr": standard_error(list(of_arm.values())),
                "models": of_arm,
            }
            for arm, of_arm in values.items()
        },
        "seeds": len(before),
        "difference": difference.mean,
        "interval": [difference.low, difference.high],
        "confidence": options.confidence,
        "verdict": verdict(claim.expect, claim.within, difference),
    }


def in_words(result: dict[str, Any]) -> str:
    """The numbers of a judged claim in one line."""
    arms = " -> ".join(f"{of['mean']:.4g} ± {of['stderr']:.2g} ({arm})" for arm, of in result["arms"].items())
    low, high = result["interval"]
    bound = f", bound ±{result['within']:g}" if result["within"] is not None else ""
    return (
        f"{result['measure']}: {arms}; difference {result['difference']:+.4g}, {100 * result['confidence']:g} % "
        f"interval {low:+.4g} to {high:+.4g}{bound}, {result['seeds']} seeds"
    )


def _measure(name: str, result: dict[str, Any]) -> Measure:
    """The difference alone: whether a fall is for the better is for who makes the claim to say."""
    better: Literal["higher", "lower"] = "higher" if result["expect"] == "rises" else "lower"
    label = f"{name}, {result['verdict']}: {result['measure']}, difference"
    return Measure(name=label, after=result["difference"], better=better)
