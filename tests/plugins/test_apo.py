"""APO's losses against their equations in float64, their gradients and their extremes."""

import math

import pytest
import torch

import smolrecipe_apo
from smolrecipe import PreferenceBatch
from smolrecipe_apo import ApoOptions

LOSSES = {loss.name: loss for loss in smolrecipe_apo.smolrecipe_losses()}


def batch(policy_chosen, policy_rejected, reference_chosen, reference_rejected, dtype=torch.float64):
    def tensor(values, grad=False):
        return torch.tensor(values, dtype=dtype, requires_grad=grad)

    return PreferenceBatch(
        policy_chosen=tensor(policy_chosen, grad=True),
        policy_rejected=tensor(policy_rejected, grad=True),
        reference_chosen=tensor(reference_chosen),
        reference_rejected=tensor(reference_rejected),
        chosen_tokens=torch.full((len(policy_chosen),), 3),
        rejected_tokens=torch.full((len(policy_chosen),), 5),
    )


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


EQUATIONS = {
    "apo_zero": lambda beta, chosen, rejected: (1 - sigmoid(beta * chosen)) + sigmoid(beta * rejected),
    "apo_down": lambda beta, chosen, rejected: sigmoid(beta * chosen) + 1 - sigmoid(beta * (chosen - rejected)),
}
"""Equations 7 and 8 of arXiv:2408.06266 in the log-ratios of one pair."""

PAIRS = [([-10.0, -31.5, -7.25], [-12.0, -3.0, -90.0], [-11.0, -30.0, -9.0], [-12.5, -8.0, -80.0])]


@pytest.mark.parametrize("name", EQUATIONS)
@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0])
@pytest.mark.parametrize("pair", PAIRS)
def test_losses_and_gradients_equal_the_equations(name, beta, pair):
    given = batch(*pair)
    result = LOSSES[name].loss(given, ApoOptions(beta=beta))
    result.losses.sum().backward()
    assert result.losses.shape == (3,)
    for index, (pc, pr, rc, rr) in enumerate(zip(*pair, strict=True)):
        chosen, rejected = pc - rc, pr - rr
        assert result.losses[index].item() == pytest.approx(EQUATIONS[name](beta, chosen, rejected), rel=1e-12)
        assert result.chosen_rewards[index].item() == pytest.approx(beta * chosen)
        assert result.rejected_rewards[index].item() == pytest.approx(beta * rejected)
        # Central differences of the equation: error of order step**2.
        step = 1e-5
        slopes = [
            (EQUATIONS[name](beta, chosen + a * step, rejected + b * step)
             - EQUATIONS[name](beta, chosen - a * step, rejected - b * step)) / (2 * step)
            for a, b in ((1, 0), (0, 1))
        ]  # fmt: skip
        assert given.policy_chosen.grad[index].item() == pytest.approx(slopes[0], rel=1e-6, abs=1e-10)
        assert given.policy_rejected.grad[index].item() == pytest.approx(slopes[1], rel=1e-6, abs=1e-10)


@pytest.mark.parametrize("name", EQUATIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_policy_that_is_the_reference_has_a_loss_of_exactly_one(name, dtype):
    same = [-123.4, -5.6]
    result = LOSSES[name].loss(batch(same, same, same, same, dtype), ApoOptions(beta=0.05))
    assert torch.equal(result.losses, torch.ones(2, dtype=dtype))
    assert not result.chosen_rewards.any()


@pytest.mark.parametrize(
    ("name", "moves_chosen", "moves_rejected"),
    [("apo_zero", "up", "down"), ("apo_down", "down", "down")],
)
def test_gradient_descent_moves_likelihoods_as_the_name_says(name, moves_chosen, moves_rejected):
    """At the reference, and with the rejected answer falling faster than the chosen one in ``apo_down``."""
    given = batch([-10.0], [-10.0], [-10.0], [-9.0])
    LOSSES[name].loss(given, ApoOptions(beta=1.0)).losses.sum().backward()
    chosen, rejected = given.policy_chosen.grad.item(), given.policy_rejected.grad.item()
    assert (chosen < 0) == (moves_chosen == "up")
    assert (rejected > 0) == (moves_rejected == "down")


@pytest.mark.parametrize("name", EQUATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gap", [1e4, -1e4, 1e30, -1e30])
def test_extremes_stay_finite(name, dtype, gap):
    given = batch([gap, -gap, gap], [gap, gap, -gap], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], dtype)
    result = LOSSES[name].loss(given, ApoOptions(beta=0.1))
    result.losses.sum().backward()
    for tensor in (result.losses, given.policy_chosen.grad, given.policy_rejected.grad):
        assert tensor.dtype == dtype
        assert tensor.isfinite().all()
    assert ((result.losses >= 0) & (result.losses <= 2)).all()


@pytest.mark.parametrize("name", EQUATIONS)
def test_rewards_carry_no_gradient(name):
    result = LOSSES[name].loss(batch(*PAIRS[0]), ApoOptions())
    assert result.losses.requires_grad
    assert not result.chosen_rewards.requires_grad
    assert not result.rejected_rewards.requires_grad
