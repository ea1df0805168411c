"""What can be proven of judged claims: the numbers are those of the models, and the verdicts follow from them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from scipy.stats import ttest_1samp

from smolrecipe import Proof, StageContext
from smolrecipe_claims import ClaimsOptions
from smolrecipe_claims.judging import CLAIMS_FILE
from smolrecipe_claims.measured import everything_measured


def proofs(options: ClaimsOptions, context: StageContext) -> Iterator[Proof]:
    """The published numbers against the records of the models' stages, the verdicts against scipy's own t-test."""
    judged = json.loads((context.folder / CLAIMS_FILE).read_text(encoding="utf-8"))
    wrong, count = [], 0
    for name, claim in options.claims.items():
        for arm, models in claim.arms.items():
            for model in models:
                told = judged[name]["arms"][arm]["models"].get(str(model))
                count += 1
                if told not in everything_measured(model, options, context)[claim.measure].values():
                    wrong.append(f"'{claim.measure}' of '{model}' in claim '{name}'")
    yield Proof.same("numbers are those that were measured", len(wrong), count, of="numbers", note="; ".join(wrong))
    differing = [name for name in options.claims if _differs(judged[name])]
    yield Proof.same(
        "intervals and verdicts follow from the numbers",
        len(differing),
        len(options.claims),
        of="claims",
        note=", ".join(differing),
    )


def _differs(result: Mapping[str, Any]) -> bool:
    before, after = (list(of["models"].values()) for of in result["arms"].values())
    differences = [second - first for first, second in zip(before, after, strict=True)]
    if len(set(differences)) == 1:  # no spread: scipy has no interval for it
        low = high = differences[0]
    else:
        low, high = ttest_1samp(differences, 0.0).confidence_interval(result["confidence"])
    close = all(
        math.isclose(told, right, rel_tol=1e-6, abs_tol=1e-9)
        for told, right in zip(result["interval"], (low, high), strict=True)
    )
    bound = result["within"] or 0.0
    holds = {
        "rises": low > 0,
        "falls": high < 0,
        "stays": max(abs(low), abs(high)) <= bound,
    }[result["expect"]]
    return not close or holds != (result["verdict"] == "seen")
