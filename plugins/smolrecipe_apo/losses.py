"""APO's losses as functions of tensors, all of shape (batch,)."""

from __future__ import annotations

import torch  # noqa: TID253

from smolrecipe import PreferenceBatch, PreferenceLoss


def apo_zero(batch: PreferenceBatch, beta: float) -> PreferenceLoss:
    """(1 - sigmoid(beta r_w)) + sigmoid(beta r_l), r = log policy - log reference (arXiv:2408.06266, equation 7)."""
    chosen, rejected = _log_ratios(batch)
    losses = (1 - torch.sigmoid(beta * chosen)) + torch.sigmoid(beta * rejected)
    return _with_rewards(losses, beta, chosen, rejected)


def apo_down(batch: PreferenceBatch, beta: float) -> PreferenceLoss:
    """sigmoid(beta r_w) + (1 - sigmoid(beta (r_w - r_l))) (arXiv:2408.06266, equation 8).

    The ratios are subtracted before they are scaled, as written: the other way round, a loss may be off by one bit.
    """
    chosen, rejected = _log_ratios(batch)
    losses = torch.sigmoid(beta * chosen) + (1 - torch.sigmoid(beta * (chosen - rejected)))
    return _with_rewards(losses, beta, chosen, rejected)


def _log_ratios(batch: PreferenceBatch) -> tuple[torch.Tensor, torch.Tensor]:
    assert batch.reference_chosen is not None
    assert batch.reference_rejected is not None
    return batch.policy_chosen - batch.reference_chosen, batch.policy_rejected - batch.reference_rejected


def _with_rewards(losses: torch.Tensor, beta: float, chosen: torch.Tensor, rejected: torch.Tensor) -> PreferenceLoss:
    return PreferenceLoss(
        losses=losses, chosen_rewards=beta * chosen.detach(), rejected_rewards=beta * rejected.detach()
    )
