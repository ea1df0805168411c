"""Anchored preference optimization (arXiv:2408.06266): losses that say where chosen and rejected should move."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import frozen

from smolrecipe import Loss, PreferenceBatch, PreferenceLoss, hookimpl, option


@frozen(kw_only=True)
class ApoOptions:
    """How far the policy may move from the reference."""

    beta: float = option(
        default=0.1,
        more_than=0,
        source="TRL DPOConfig",
        doc="weight of a log-ratio of 1 nat: smaller lets the policy go further",
    )


def apo_zero(batch: PreferenceBatch, options: ApoOptions) -> PreferenceLoss:
    """For chosen answers better than the model's own: raises chosen, lowers rejected (equation 7)."""
    from smolrecipe_apo.losses import apo_zero

    return apo_zero(batch, options.beta)


def apo_down(batch: PreferenceBatch, options: ApoOptions) -> PreferenceLoss:
    """For chosen answers worse than the model's own: lowers both, rejected more (equation 8)."""
    from smolrecipe_apo.losses import apo_down

    return apo_down(batch, options.beta)


@hookimpl
def smolrecipe_losses() -> Iterable[Loss]:
    """Offer ``apo_zero`` and ``apo_down``."""
    yield Loss(
        name="apo_zero",
        summary="raise chosen and lower rejected: for chosen answers better than the model's own",
        source="arXiv:2408.06266, equation 7",
        options=ApoOptions,
        loss=apo_zero,
    )
    yield Loss(
        name="apo_down",
        summary="lower both, rejected more: for chosen answers worse than the model's own",
        source="arXiv:2408.06266, equation 8",
        options=ApoOptions,
        loss=apo_down,
    )
