"""DPO's and IPO's losses as functions of tensors, all of shape (batch,)."""

from __future__ import annotations

import torch  # noqa: TID253
import torch.nn.functional as F  # noqa: TID253

from smolrecipe import PreferenceBatch, PreferenceLoss


def dpo(batch: PreferenceBatch, beta: float, label_smoothing: float) -> PreferenceLoss:
    """-(1 - s) log sigmoid(beta (r_w - r_l)) - s log sigmoid(-beta (r_w - r_l)), s the label smoothing."""
    chosen, rejected = _log_ratios(batch)
    margin = beta * (chosen - rejected)
    losses = -F.logsigmoid(margin) * (1 - label_smoothing) - F.logsigmoid(-margin) * label_smoothing
    return _with_rewards(losses, beta, chosen, rejected)


def ipo(batch: PreferenceBatch, beta: float) -> PreferenceLoss:
    """(r_w / tokens_w - r_l / tokens_l - 1 / (2 beta))^2.

    The paper writes sums; averaged per token, as its authors ran it and TRL does, beta means the same at every length.
    """
    chosen, rejected = _log_ratios(batch)
    chosen = chosen / batch.chosen_tokens
    rejected = rejected / batch.rejected_tokens
    losses = (chosen - rejected - 1 / (2 * beta)) ** 2
    return _with_rewards(losses, beta, chosen, rejected)


def _log_ratios(batch: PreferenceBatch) -> tuple[torch.Tensor, torch.Tensor]:
    assert batch.reference_chosen is not None
    assert batch.reference_rejected is not None
    return batch.policy_chosen - batch.reference_chosen, batch.policy_rejected - batch.reference_rejected


def _with_rewards(losses: torch.Tensor, beta: float, chosen: torch.Tensor, rejected: torch.Tensor) -> PreferenceLoss:
    return PreferenceLoss(
        losses=losses, chosen_rewards=beta * chosen.detach(), rejected_rewards=beta * rejected.detach()
    )
