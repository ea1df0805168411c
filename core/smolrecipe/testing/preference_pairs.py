"""Preference pairs that the checks of losses judge, and batches of them as an engine makes them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch  # noqa: TID253
from torch import Tensor  # noqa: TID253

from smolrecipe.preference import PreferenceBatch


class Pair(NamedTuple):
    """A pair as numbers: summed log-probabilities in nats and token counts."""

    policy_chosen: float
    policy_rejected: float
    reference_chosen: float
    reference_rejected: float
    chosen_tokens: int
    rejected_tokens: int


ORDINARY = (
    Pair(-42.5, -61.25, -44.0, -58.5, 13, 21),
    Pair(-8.75, -7.5, -8.0, -9.25, 3, 2),
    Pair(-130.5, -95.0, -127.25, -99.5, 64, 40),
    Pair(-20.0, -33.5, -20.5, -31.0, 9, 17),
    Pair(-3.25, -5.0, -3.0, -4.5, 1, 2),
)
"""Pairs as training sees them: won and lost, longer and shorter, the chosen answer and the rejected one."""

NEUTRAL = tuple(
    Pair(base + shift, base + shift, base, base, 10, 10) for base in (-12.0, -40.0) for shift in (-2.0, 0.0, 2.0)
)
"""Answers of one length that the policy holds equally likely, and that have moved equally far from the reference."""

LOSING = tuple(
    pair._replace(policy_chosen=pair.policy_chosen - 0.1, policy_rejected=pair.policy_rejected + 0.1)
    for pair in NEUTRAL
)
"""The same with the rejected answer a fifth of a nat ahead."""

EXTREME = tuple(
    Pair(-2 + min(chosen, 0), -2 + min(rejected, 0), -2 - max(chosen, 0), -2 - max(rejected, 0), *tokens)
    for chosen, rejected in itertools.product((-1e4, -1.0, 0.0, 1.0, 1e4), repeat=2)
    for tokens in ((1, 300), (300, 1))
)
"""Log-ratios of up to 10,000 nats either way: 2,500 tokens that are each e^4 times likelier or less likely."""

CERTAIN = (
    Pair(0.0, -20.0, -2.0, -18.0, 4, 4),
    Pair(-20.0, 0.0, -18.0, -2.0, 4, 4),
    Pair(0.0, 0.0, -2.0, -2.0, 1, 7),
    Pair(-1e-3, -1e-3, -2.0, -2.0, 4, 4),
)
"""Log-probabilities of 0 and nearly 0: what rounding leaves of an answer that the policy is sure of."""


def batch_of(
    pairs: Sequence[Pair], needs_reference: bool, dtype: torch.dtype, trained: bool = True, device: str = "cpu"
) -> tuple[PreferenceBatch, Tensor, Tensor]:
    """A batch of pairs as an engine makes it, and the leaves behind the policy's log-probabilities.

    As in training these are results of the policy, not leaves themselves; with ``trained=False`` they need no gradient.
    """
    columns = [torch.tensor(column, dtype=dtype, device=device) for column in list(zip(*pairs, strict=True))[:4]]
    chosen, rejected = (column.requires_grad_(trained) for column in columns[:2])
    counts = [torch.tensor([pair[index] for pair in pairs], device=device) for index in (4, 5)]
    batch = PreferenceBatch(
        policy_chosen=chosen * 1,
        policy_rejected=rejected * 1,
        reference_chosen=columns[2] if needs_reference else None,
        reference_rejected=columns[3] if needs_reference else None,
        chosen_tokens=counts[0],
        rejected_tokens=counts[1],
    )
    return batch, chosen, rejected
