"""APO's losses as functions of tensors, all of shape (batch,)."""

from __future__ import annotations

import torch  # noqa: TID253

from smolrecipe import PreferenceBatch, PreferenceLoss


def apo_zero(batch: PreferenceBatch, beta: float) -> PreferenceLoss:
    """(1 - sigmoid(beta r_w)) + sigmoid(beta r_l), r = log policy - log reference (arXiv:2408.06266, equation 7)."""
    chosen, rejected = _rewards(batch, beta)
    losses = (1 - torch.sigmoid(chosen)) + torch.sigmoid(rejected)
    return PreferenceLoss(losses=losses, chosen_rewards=chosen.detach(), rejected_rewards=rejected.detach())


def apo_down(batch: PreferenceBatch, beta: float) -> PreferenceLoss:
    """sigmoid(beta r_w) + (1 - sigmoid(beta (r_w - r_l))) (arXiv:2408.06266, equation 8)."""
    chosen, rejected = _rewards(batch, beta)
    losses = torch.sigmoid(chosen) + (1 - torch.sigmoid(chosen - rejected))
    return PreferenceLoss(losses=losses, chosen_rewards=chosen.detach(), rejected_rewards=rejected.detach())


def _rewards(batch: PreferenceBatch, beta: float) -> tuple[torch.Tensor, torch.Tensor]:
    assert batch.reference_chosen is not None
    assert batch.reference_rejected is not None
    return (
        beta * (batch.policy_chosen - batch.reference_chosen),
        beta * (batch.policy_rejected - batch.reference_rejected),
    )
