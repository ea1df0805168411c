"""DPO's and IPO's losses against their equations in float64, their gradients and their extremes."""

import math

import pytest
import torch

import smolrecipe_dpo
from smolrecipe import PreferenceBatch
from smolrecipe_dpo import DpoOptions, IpoOptions

LOSSES = {loss.name: loss for loss in smolrecipe_dpo.smolrecipe_losses()}
CHOSEN_TOKENS, REJECTED_TOKENS = [3, 40, 1], [5, 2, 17]
PAIRS = ([-10.0, -31.5, -7.25], [-12.0, -3.0, -90.0], [-11.0, -30.0, -9.0], [-12.5, -8.0, -80.0])


def batch(policy_chosen, policy_rejected, reference_chosen, reference_rejected, dtype=torch.float64):
    def tensor(values, grad=False):
        return torch.tensor(values, dtype=dtype, requires_grad=grad)

    return PreferenceBatch(
        policy_chosen=tensor(policy_chosen, grad=True),
        policy_rejected=tensor(policy_rejected, grad=True),
        reference_chosen=tensor(reference_chosen),
        reference_rejected=tensor(reference_rejected),
        chosen_tokens=torch.tensor(CHOSEN_TOKENS[: len(policy_chosen)]),
        rejected_tokens=torch.tensor(REJECTED_TOKENS[: len(policy_chosen)]),
    )


def log_sigmoid(x):
    return -math.log1p(math.exp(-x))


def dpo_equation(beta, smoothing, chosen, rejected):
    """Equation 7 of arXiv:2305.18290, expected over labels that are swapped with probability ``smoothing``."""
    margin = beta * (chosen - rejected)
    return -(1 - smoothing) * log_sigmoid(margin) - smoothing * log_sigmoid(-margin)


@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_dpo_equals_its_equation(beta, smoothing):
    given = batch(*PAIRS)
    result = LOSSES["dpo"].loss(given, DpoOptions(beta=beta, label_smoothing=smoothing))
    result.losses.sum().backward()
    for index, (pc, pr, rc, rr) in enumerate(zip(*PAIRS, strict=True)):
        chosen, rejected = pc - rc, pr - rr
        expected = dpo_equation(beta, smoothing, chosen, rejected)
        assert result.losses[index].item() == pytest.approx(expected, rel=1e-12)
        assert result.chosen_rewards[index].item() == pytest.approx(beta * chosen)
        assert result.rejected_rewards[index].item() == pytest.approx(beta * rejected)
        # Central differences of the equation: error of order step**2.
        slope = (
            dpo_equation(beta, smoothing, chosen + 1e-5, rejected)
            - dpo_equation(beta, smoothing, chosen - 1e-5, rejected)
        ) / 2e-5
        assert given.policy_chosen.grad[index].item() == pytest.approx(slope, rel=1e-5, abs=1e-9)
        assert given.policy_rejected.grad[index].item() == pytest.approx(-slope, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0])
def test_ipo_equals_its_equation_per_token(beta):
    """Equation 17 of arXiv:2310.12036 with log-ratios averaged over each completion's tokens, as TRL has it."""
    given = batch(*PAIRS)
    result = LOSSES["ipo"].loss(given, IpoOptions(beta=beta))
    result.losses.sum().backward()
    for index, (pc, pr, rc, rr) in enumerate(zip(*PAIRS, strict=True)):
        chosen = (pc - rc) / CHOSEN_TOKENS[index]
        rejected = (pr - rr) / REJECTED_TOKENS[index]
        distance = chosen - rejected - 1 / (2 * beta)
        assert result.losses[index].item() == pytest.approx(distance**2, rel=1e-12)
        assert result.chosen_rewards[index].item() == pytest.approx(beta * chosen)
        assert given.policy_chosen.grad[index].item() == pytest.approx(2 * distance / CHOSEN_TOKENS[index])
        assert given.policy_rejected.grad[index].item() == pytest.approx(-2 * distance / REJECTED_TOKENS[index])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_policy_that_is_the_reference(dtype):
    same = [-123.4, -5.6]
    dpo = LOSSES["dpo"].loss(batch(same, same, same, same, dtype), DpoOptions())
    torch.testing.assert_close(dpo.losses, torch.full((2,), math.log(2), dtype=dtype))
    ipo = LOSSES["ipo"].loss(batch(same, same, same, same, dtype), IpoOptions(beta=0.1))
    assert torch.equal(ipo.losses, torch.full((2,), 25.0, dtype=dtype))


@pytest.mark.parametrize(("name", "options"), [("dpo", DpoOptions()), ("ipo", IpoOptions())])
def test_gradient_descent_raises_chosen_and_lowers_rejected(name, options):
    given = batch([-10.0], [-10.0], [-10.0], [-10.0])
    LOSSES[name].loss(given, options).losses.sum().backward()
    assert given.policy_chosen.grad.item() < 0 < given.policy_rejected.grad.item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gap", [1e4, -1e4, 1e15, -1e15])
@pytest.mark.parametrize(
    ("name", "options"), [("dpo", DpoOptions()), ("dpo", DpoOptions(label_smoothing=0.1)), ("ipo", IpoOptions())]
)
def test_extremes_stay_finite(name, options, gap, dtype):
    given = batch([gap, -gap, gap], [gap, gap, -gap], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], dtype)
    result = LOSSES[name].loss(given, options)
    result.losses.sum().backward()
    for tensor in (result.losses, given.policy_chosen.grad, given.policy_rejected.grad):
        assert tensor.dtype == dtype
        assert tensor.isfinite().all()


@pytest.mark.parametrize(("name", "options"), [("dpo", DpoOptions()), ("ipo", IpoOptions())])
def test_rewards_carry_no_gradient(name, options):
    result = LOSSES[name].loss(batch(*PAIRS), options)
    assert result.losses.requires_grad
    assert not result.chosen_rewards.requires_grad
    assert not result.rejected_rewards.requires_grad
