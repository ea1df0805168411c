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
    Token counts are whole numbers of completion tokens, at least 1, in a tensor of an integer or a floating type.
    A loss leaves all of them as they are. In an evaluation the policy's carry no gradients either.
    """

    policy_chosen: Tensor
    policy_rejected: Tensor
    reference_chosen: Tensor | None
    reference_rejected: Tensor | None
    chosen_tokens: Tensor
    rejected_tokens: Tensor


@frozen(kw_only=True)
class PreferenceLoss:
    """What a preference loss returns: floating-point tensors of shape (batch,), the losses differentiable.

    A pair's loss depends on that pair alone, because micro-batches are a matter of memory, and not on earlier batches.
    Losses and their gradients are finite in float32 and bfloat16, for log-ratios of 10,000 nats and for completions
    that are certain (a log-probability of 0) too. Gradients are the losses' derivative: no part of them is detached.
    Both completions get one; a step down it lets the chosen completion gain on the rejected one where a pair is even
    or narrowly lost, and lowering the rejected one does not raise the loss of a pair that is even. The chosen one may
    fall (APO-down).

    Rewards are what the loss itself regards as the implicit reward of a completion; they are reported, and the margin
    is their difference; each rises with its completion's log-probability. Both are ``None`` where a loss has no such
    notion.
    """

    losses: Tensor
    chosen_rewards: Tensor | None = None
    rejected_rewards: Tensor | None = None
