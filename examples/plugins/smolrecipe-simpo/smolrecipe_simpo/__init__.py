"""SimPO (arXiv:2405.14734): rewards are mean log-probabilities per token, and no reference model is needed."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import frozen

from smolrecipe import Loss, PreferenceBatch, PreferenceLoss, hookimpl, option


@frozen(kw_only=True)
class SimpoOptions:
    """How clearly the chosen answer should win."""

    beta: float = option(
        default=2.0, more_than=0, source="arXiv:2405.14734, appendix", doc="scale of the rewards, per nat and token"
    )
    gamma: float = option(
        default=1.2, at_least=0, source="arXiv:2405.14734, appendix", doc="margin that the chosen reward should have"
    )


def simpo(batch: PreferenceBatch, options: SimpoOptions) -> PreferenceLoss:
    """-log sigmoid(beta p_w / |w| - beta p_l / |l| - gamma), p the policy's log-probability (equation 6)."""
    from torch.nn.functional import logsigmoid

    chosen = options.beta * batch.policy_chosen / batch.chosen_tokens
    rejected = options.beta * batch.policy_rejected / batch.rejected_tokens
    return PreferenceLoss(
        losses=-logsigmoid(chosen - rejected - options.gamma),
        chosen_rewards=chosen.detach(),
        rejected_rewards=rejected.detach(),
    )


@hookimpl
def smolrecipe_losses() -> Iterable[Loss]:
    """Offer ``simpo``."""
    yield Loss(
        name="simpo",
        summary="mean log-probabilities per token as rewards, without a reference model",
        source="arXiv:2405.14734, equation 6",
        options=SimpoOptions,
        loss=simpo,
        needs_reference=False,
    )
