"""Direct preference optimization (arXiv:2305.18290) and its squared relative IPO (arXiv:2310.12036)."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import frozen

from smolrecipe import Loss, PreferenceBatch, PreferenceLoss, hookimpl, option


@frozen(kw_only=True)
class DpoOptions:
    """How far the policy may move from the reference, and how far the labels are trusted."""

    beta: float = option(
        default=0.1,
        more_than=0,
        source="TRL DPOConfig",
        doc="weight of a log-ratio of 1 nat: smaller lets the policy go further",
    )
    label_smoothing: float = option(
        default=0.0,
        at_least=0,
        at_most=0.5,
        source="https://ericmitchell.ai/cdpo.pdf",
        doc="probability that a pair's labels are swapped (conservative DPO); 0 is DPO itself",
    )


@frozen(kw_only=True)
class IpoOptions:
    """How far the policy may move from the reference."""

    beta: float = option(
        default=0.1,
        more_than=0,
        source="TRL DPOConfig",
        doc="the paper's tau: log-ratios per token are driven 1 / (2 beta) nats apart",
    )


def dpo(batch: PreferenceBatch, options: DpoOptions) -> PreferenceLoss:
    """-log sigmoid(beta (r_w - r_l)), r = log policy - log reference (arXiv:2305.18290, equation 7)."""
    from smolrecipe_dpo.losses import dpo

    return dpo(batch, options.beta, options.label_smoothing)


def ipo(batch: PreferenceBatch, options: IpoOptions) -> PreferenceLoss:
    """The squared distance of the log-ratios' difference from 1 / (2 beta) (arXiv:2310.12036, equation 17)."""
    from smolrecipe_dpo.losses import ipo

    return ipo(batch, options.beta)


@hookimpl
def smolrecipe_losses() -> Iterable[Loss]:
    """Offer ``dpo`` and ``ipo``."""
    yield Loss(
        name="dpo",
        summary="direct preference optimization: a logistic loss on the difference of log-ratios",
        source="arXiv:2305.18290, equation 7",
        options=DpoOptions,
        loss=dpo,
    )
    yield Loss(
        name="ipo",
        summary="identity preference optimization: a squared loss on the difference of log-ratios per token",
        source="arXiv:2310.12036, equation 17, averaged over tokens as in TRL",
        options=IpoOptions,
        loss=ipo,
    )
