"""Claims about a recipe, put to the test over seeds: what two arms of an experiment measure, and what that shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from attrs import frozen

from smolrecipe import Artifact, Proof, StageContext, StageKind, StageRef, Workload, hookimpl, option

KV_CACHE = "KV cache, bytes per token"
"""A measure that follows from a model's configuration: keys and values of all layers for one token, in bfloat16."""


@frozen(kw_only=True)
class ClaimOptions:
    """One claim: that what is measured rises, falls or stays from the first arm to the second."""

    says: str = option(doc="the claim in words, for people")
    measure: str = option(
        doc="what is measured of every model: a task of the evaluations in 'scores', a measure of the stage that made "
        f"the model ('held-out loss'), or '{KV_CACHE}'"
    )
    arms: Mapping[str, list[StageRef]] = option(
        needs="hf-model",
        doc="two names, each with its models: the first of one arm belongs to the first of the other, as they share a "
        "seed, and so on",
    )
    expect: Literal["rises", "falls", "stays"] = option(
        doc="what the measure does from the first arm to the second, if the claim holds"
    )
    within: float | None = option(
        default=None, more_than=0, doc="how much a measure that 'stays' may differ by, in its own unit"
    )


@frozen(kw_only=True)
class ClaimsOptions:
    """The options of the ``claims`` stage."""

    claims: Mapping[str, ClaimOptions] = option(doc="the claims, by name")
    scores: list[StageRef] = option(
        factory=list, needs="scores", doc="the evaluations of the models, where claims are about scores"
    )
    confidence: float = option(
        default=0.95,
        at_least=0.5,
        at_most=0.999,
        doc="of the interval of the mean difference by which is judged: Student's t over the pairs",
    )


def run(options: ClaimsOptions, context: StageContext) -> Artifact:
    """Judge the claims, see ``smolrecipe_claims.judging``."""
    from smolrecipe_claims.judging import judge

    return judge(options, context)


def verify(options: ClaimsOptions, context: StageContext) -> Iterable[Proof]:
    """Judge again by other means, see ``smolrecipe_claims.proofs``."""
    from smolrecipe_claims.proofs import proofs

    return proofs(options, context)


def check(options: ClaimsOptions) -> Iterable[str]:
    """Arms that cannot be compared, bounds that are missing or of no use."""
    if not options.claims:
        yield "'claims' is empty: there is nothing to judge"
    for name, claim in options.claims.items():
        counts = {arm: len(models) for arm, models in claim.arms.items()}
        if len(counts) != 2:
            yield f"claim '{name}' compares two arms, and has {len(counts)}"
        elif len(set(counts.values())) > 1:
            sizes = ", ".join(f"'{arm}' {count}" for arm, count in counts.items())
            yield f"the arms of claim '{name}' have different numbers of models ({sizes}): they are compared in pairs"
        elif min(counts.values()) < 2:
            yield f"claim '{name}' has one pair of models: an error bar takes two seeds at least"
        if (claim.expect == "stays") != (claim.within is not None):
            what = "needs 'within'" if claim.expect == "stays" else "is not judged by 'within'"
            yield f"claim '{name}' expects that its measure {claim.expect}, which {what}"


def workload(options: ClaimsOptions, parents: Mapping[str, Workload]) -> Workload:
    """No training, and nothing is measured anew."""
    return Workload()


@hookimpl
def smolrecipe_stages() -> Iterable[StageKind]:
    """Offer ``claims``."""
    yield StageKind(
        name="claims",
        example={
            "claims": {
                "width": {
                    "says": "a wider model learns more",
                    "measure": "held-out loss",
                    "arms": {"narrow": ["narrow-1", "narrow-2"], "wide": ["wide-1", "wide-2"]},
                    "expect": "falls",
                }
            }
        },
        summary="judge claims about models over seeds: seen, not seen at this size, or the opposite",
        source="paired differences with Student's t; equivalence by its interval (Schuirmann 1987)",
        options=ClaimsOptions,
        check=check,
        requires=("scipy",),
        extra="claims",
        run=run,
        verify=verify,
        produces=lambda options: {},
        workload=workload,
    )
