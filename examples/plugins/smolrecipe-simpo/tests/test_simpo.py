"""SimPO against TRL's own, from logits on, and against sums by hand."""

import math
from types import SimpleNamespace

import pytest
import smolrecipe_simpo
import torch
from smolrecipe_simpo import SimpoOptions
from trl.experimental.cpo import CPOTrainer

from smolrecipe import PreferenceBatch
from smolrecipe.testing import conformance

test_contract = conformance("simpo")

(SIMPO,) = smolrecipe_simpo.smolrecipe_losses()


def batch(chosen, rejected, chosen_tokens, rejected_tokens):
    return PreferenceBatch(
        policy_chosen=chosen,
        policy_rejected=rejected,
        reference_chosen=None,
        reference_rejected=None,
        chosen_tokens=chosen_tokens,
        rejected_tokens=rejected_tokens,
    )


@pytest.mark.parametrize(("beta", "gamma"), [(2.0, 1.2), (2.5, 0.3), (0.1, 0.5), (2.0, 0.0)])
def test_losses_gradients_and_rewards_are_trls(beta, gamma):
    """Both start from the same logits and labels; TRL averages per token, and this divides sums by counts."""
    torch.manual_seed(0)
    logits = (3 * torch.randn(2, 6, 12, 32, dtype=torch.float64)).requires_grad_()
    labels = torch.randint(32, (2, 6, 12))
    for half in labels:  # answers of 1 to 11 tokens, behind a prompt
        for row, length in zip(half, torch.randperm(11)[:6] + 1, strict=True):
            row[: 12 - length] = -100
    trl = SimpleNamespace(
        alpha=0.0,
        beta=beta,
        simpo_gamma=gamma,
        label_smoothing=0.0,
        loss_type="simpo",
        accelerator=SimpleNamespace(device="cpu"),
    )
    means = [CPOTrainer.get_batch_logps(*half, average_log_prob=True) for half in zip(logits, labels, strict=True)]
    theirs = CPOTrainer.cpo_loss(trl, *means)
    (their_gradient,) = torch.autograd.grad(theirs[0].mean(), logits)

    sums = [CPOTrainer.get_batch_logps(*half) for half in zip(logits, labels, strict=True)]
    counts = (labels[..., 1:] != -100).sum(-1)
    ours = SIMPO.loss(batch(*sums, *counts), SimpoOptions(beta=beta, gamma=gamma))
    (our_gradient,) = torch.autograd.grad(ours.losses.mean(), logits)

    # The same numbers in another order of multiplications: rounding of float64 only.
    for mine, other in zip((ours.losses, ours.chosen_rewards, ours.rejected_rewards), theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(our_gradient, their_gradient, rtol=1e-10, atol=1e-14)
    assert not ours.chosen_rewards.requires_grad


def test_a_pair_by_hand():
    """12 nats over 4 tokens against 30 over 5: means of -3 and -6, so 2 * 3 - 1.2 = 4.8 is what is squashed."""
    pair = batch(torch.tensor([-12.0]), torch.tensor([-30.0]), torch.tensor([4]), torch.tensor([5]))
    answer = SIMPO.loss(pair, SimpoOptions())
    assert answer.losses.item() == pytest.approx(math.log1p(math.exp(-4.8)), rel=1e-5)
    assert (answer.chosen_rewards.item(), answer.rejected_rewards.item()) == (-6.0, -12.0)


def test_length_does_not_decide():
    """A chosen answer that is likelier per token wins although it is longer, and so less likely as a whole."""
    pair = batch(torch.tensor([-20.0]), torch.tensor([-15.0]), torch.tensor([20]), torch.tensor([5]))
    answer = SIMPO.loss(pair, SimpoOptions(gamma=0.0))
    assert answer.chosen_rewards > answer.rejected_rewards
    assert answer.losses.item() < math.log(2)
