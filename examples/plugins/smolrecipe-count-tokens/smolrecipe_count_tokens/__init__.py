"""A stage that counts: tokens, documents and document lengths of every source that another stage has tokenised."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from attrs import frozen

from smolrecipe import Artifact, Proof, StageContext, StageKind, StageRef, hookimpl, option


@frozen(kw_only=True)
class CountTokensOptions:
    """What to count."""

    from_: StageRef = option(needs="tokens", doc="the stage whose token files are counted")


def run(options: CountTokensOptions, context: StageContext) -> Artifact:
    """Count, see ``smolrecipe_count_tokens.counting``."""
    from smolrecipe_count_tokens.counting import count

    return count(options, context)


def verify(options: CountTokensOptions, context: StageContext) -> Iterable[Proof]:
    """Count again by other means, see ``smolrecipe_count_tokens.proofs``."""
    from smolrecipe_count_tokens.proofs import proofs

    return proofs(options, context)


def produces(options: CountTokensOptions) -> Mapping[str, Literal[True] | str]:
    """Nothing that another stage could ask for."""
    return {}


@hookimpl
def smolrecipe_stages() -> Iterable[StageKind]:
    """Offer ``count_tokens``."""
    yield StageKind(
        name="count_tokens",
        summary="tokens, documents and document lengths of every source",
        options=CountTokensOptions,
        run=run,
        verify=verify,
        produces=produces,
        example={"from": "tokens"},
    )
