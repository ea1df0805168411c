"""What a preference loss sees and what it returns. Tensors only: a loss needs no engine and no trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from torch import Tensor


@frozen(kw_only=True)
class PreferenceBatch:
    """A batch of preference pairs, already reduced to one number per completion.

    Every tensor has the shape (batch,). Log-probabilities are in nats, summed over the completion's tokens. The
    policy's carry gradients, the reference's do not; they are ``None`` for a loss with ``needs_reference=False``.
    Token counts are whole numbers of completion tokens, at least 1.
    """

    policy_chosen: Tensor
    policy_rejected: Tensor
    reference_chosen: Tensor | None
    reference_rejected: Tensor | None
    chosen_tokens: Tensor
    rejected_tokens: Tensor


@frozen(kw_only=True)
class PreferenceLoss:
    """What a preference loss returns: tensors of shape (batch,), the losses differentiable.

    Rewards are what the loss itself regards as the implicit reward of a completion; they are reported, and the margin
    is their difference. ``None`` where a loss has no such notion.
    """

    losses: Tensor
    chosen_rewards: Tensor | None = None
    rejected_rewards: Tensor | None = None
