"""The checks of preference losses: each catches a loss that breaks it, and published losses of all kinds pass."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attrs import evolve, frozen

from smolrecipe import Loss, NoOptions, PreferenceBatch, PreferenceLoss, option
from smolrecipe.testing.contract import ContractError, example_of
from smolrecipe.testing.losses import checks
from smolrecipe_registry.discovery import load_registry

BETA = 0.1


@frozen(kw_only=True)
class Options:
    beta: float = option(default=BETA, more_than=0, doc="weight of a log-ratio")


def ratios(batch: PreferenceBatch) -> tuple[torch.Tensor, torch.Tensor]:
    return batch.policy_chosen - batch.reference_chosen, batch.policy_rejected - batch.reference_rejected


def answer(losses: torch.Tensor, chosen: torch.Tensor, rejected: torch.Tensor) -> PreferenceLoss:
    return PreferenceLoss(losses=losses, chosen_rewards=chosen.detach(), rejected_rewards=rejected.detach())


def logistic(batch: PreferenceBatch, options: Any) -> PreferenceLoss:
    """DPO, the loss that the mutants are made from."""
    chosen, rejected = (BETA * ratio for ratio in ratios(batch))
    return answer(-F.logsigmoid(chosen - rejected), chosen, rejected)


def loss_of(function: Callable[..., PreferenceLoss], **changes: Any) -> Loss:
    return Loss(name="tried", summary="a loss", source="here", loss=function, **changes)


def reports(component: Loss, options: Any = None) -> dict[str, str]:
    """The checks that fail, in their order, with what they say."""
    found = {}
    for check in checks(component, NoOptions() if options is None else options):
        try:
            check.run()
        except ContractError as error:
            found[check.name] = str(error)
    return found


# Losses that are published, of kinds that the built-ins do not have.


def orpo(batch: PreferenceBatch, options: Any) -> PreferenceLoss:
    """arXiv:2403.07691, equation 6: likelihood of the chosen answer, and odds; sure answers bounded away from 0."""
    chosen = (batch.policy_chosen / batch.chosen_tokens).float()
    rejected = (batch.policy_rejected / batch.rejected_tokens).float()
    odds = [mean - torch.log(-torch.expm1(mean.clamp(max=-1e-6))) for mean in (chosen, rejected)]
    return answer(-chosen - 0.1 * F.logsigmoid(odds[0] - odds[1]), 0.1 * chosen, 0.1 * rejected)


def simpo(batch: PreferenceBatch, options: Any) -> PreferenceLoss:
    """arXiv:2405.14734, equation 6."""
    chosen, rejected = 2 * batch.policy_chosen / batch.chosen_tokens, 2 * batch.policy_rejected / batch.rejected_tokens
    return answer(-F.logsigmoid(chosen - rejected - 1.0), chosen, rejected)


def cpo(batch: PreferenceBatch, options: Any) -> PreferenceLoss:
    """arXiv:2401.08417, equation 5; without rewards."""
    margin = BETA * (batch.policy_chosen - batch.policy_rejected)
    return PreferenceLoss(losses=-F.logsigmoid(margin) - batch.policy_chosen / batch.chosen_tokens)


def hinge(batch: PreferenceBatch, options: Any) -> PreferenceLoss:
    """arXiv:2305.10425 on log-ratios: flat where a pair is won, with a kink."""
    chosen, rejected = (BETA * ratio for ratio in ratios(batch))
    return answer(torch.relu(1 - (chosen - rejected)), chosen, rejected)


def sppo(batch: PreferenceBatch, options: Any) -> PreferenceLoss:
    """arXiv:2405.00675: squared, so pairs that are won too clearly are pulled back."""
    chosen, rejected = ratios(batch)
    return answer((chosen - 0.5 / BETA) ** 2 + (rejected + 0.5 / BETA) ** 2, BETA * chosen, BETA * rejected)


def nca(batch: PreferenceBatch, options: Any) -> PreferenceLoss:
    """arXiv:2402.05369: the chosen answer is pushed both ways."""
    chosen, rejected = (BETA * ratio for ratio in ratios(batch))
    losses = -F.logsigmoid(chosen) - 0.5 * F.logsigmoid(-chosen) - 0.5 * F.logsigmoid(-rejected)
    return answer(losses, chosen, rejected)


def dpo_positive(batch: PreferenceBatch, options: Any) -> PreferenceLoss:
    """arXiv:2402.13228, with a kink where the chosen answer has not moved."""
    chosen, rejected = ratios(batch)
    margin = BETA * (chosen - rejected - 5 * torch.relu(-chosen))
    return answer(-F.logsigmoid(margin), BETA * chosen, BETA * rejected)


@pytest.mark.parametrize("published", [logistic, hinge, sppo, nca, dpo_positive])
def test_published_losses_with_a_reference_pass(published: Any) -> None:
    assert reports(loss_of(published)) == {}


@pytest.mark.parametrize("published", [orpo, simpo, cpo])
def test_published_losses_without_a_reference_pass(published: Any) -> None:
    assert reports(loss_of(published, needs_reference=False)) == {}


def built_ins() -> list[tuple[Loss, Any]]:
    catalog = load_registry().catalog
    return [(component, example_of(component, catalog)) for component, _ in catalog if isinstance(component, Loss)]


@pytest.mark.parametrize(("component", "options"), built_ins(), ids=lambda value: getattr(value, "name", ""))
def test_built_ins_pass(component: Loss, options: Any) -> None:
    assert reports(component, options) == {}


@pytest.mark.parametrize("name", ["apo_zero", "apo_down", "dpo", "ipo"])
@pytest.mark.parametrize("beta", [0.01, 1.0, 5.0])
def test_built_ins_pass_at_any_usual_beta(name: str, beta: float) -> None:
    component = load_registry().catalog.get(Loss, name)
    assert reports(component, component.options(beta=beta)) == {}


# Mutants: what each check catches, and nothing else does.


def swapped_rewards(batch: PreferenceBatch, options: Any) -> PreferenceLoss:
    right = logistic(batch, options)
    return evolve(right, chosen_rewards=right.rejected_rewards, rejected_rewards=right.chosen_rewards)


def one_reward(batch: PreferenceBatch, options: Any) -> PreferenceLoss:
    return evolve(logistic(batch, options), rejected_rewards=None)


def negated(batch: PreferenceBatch, options: Any) -> PreferenceLoss:
    chosen, rejected = (BETA * ratio for ratio in ratios(batch))
    return answer(-F.logsigmoid(rejected - chosen), chosen, rejected)


def lowers_both_alike(batch: PreferenceBatch, options: Any) -> PreferenceLoss:
    """What APO-down would be without its second term, applied to both."""
    chosen, rejected = (BETA * ratio for ratio in ratios(batch))
    return answer(torch.sigmoid(chosen) + torch.sigmoid(rejected), chosen, rejected)


def raises_rejected(batch: PreferenceBatch, options: Any) -> PreferenceLoss:
    """Raises the chosen answer more, but the rejected one too."""
    chosen, rejected = (BETA * ratio for ratio in ratios(batch))
    return answer(-2 * F.logsigmoid(chosen) - F.logsigmoid(rejected), chosen, rejected)


def chosen_only(batch: PreferenceBatch, options: Any) -> PreferenceLoss:
    chosen, rejected = (BETA * ratio for ratio in ratios(batch))
    return answer(-F.logsigmoid(chosen), chosen, rejected)


def half_detached(batch: PreferenceBatch, options: Any) -> PreferenceLoss:
    chosen, rejected = (BETA * ratio for ratio in ratios(batch))
    return answer(-F.logsigmoid(chosen - rejected) * (1 + torch.sigmoid(rejected).detach()), chosen, rejected)


def log_of_sigmoid(batch: PreferenceBatch, options: Any) -> PreferenceLoss:
    """log(sigmoid(x)) underflows at x = -1,000."""
    chosen, rejected = (BETA * ratio for ratio in ratios(batch))
    return answer(-torch.log(torch.sigmoid(chosen - rejected)), chosen, rejected)


def hidden_overflow(batch: PreferenceBatch, options: Any) -> PreferenceLoss:
    """The branch that is not taken overflows, and its gradient is 0 times infinity."""
    chosen, rejected = (BETA * ratio for ratio in ratios(batch))
    margin = chosen - rejected
    return answer(torch.where(margin < -20, -margin, torch.log1p(torch.exp(-margin))), chosen, rejected)


def raw_odds(batch: PreferenceBatch, options: Any) -> PreferenceLoss:
    """ORPO as it is often written: infinite odds where an answer is certain."""
    chosen, rejected = batch.policy_chosen / batch.chosen_tokens, batch.policy_rejected / batch.rejected_tokens
    odds = [mean - torch.log1p(-torch.exp(mean)) for mean in (chosen, rejected)]
    return PreferenceLoss(losses=-chosen - 0.1 * F.logsigmoid(odds[0] - odds[1]))


def weighted_by_the_batch(batch: PreferenceBatch, options: Any) -> PreferenceLoss:
    chosen, rejected = (BETA * ratio for ratio in ratios(batch))
    margin = chosen - rejected
    return answer(-F.logsigmoid(margin) * (1 - 0.5 * torch.tanh(margin.mean())), chosen, rejected)


def sorted_pairs(batch: PreferenceBatch, options: Any) -> PreferenceLoss:
    """AOT (arXiv:2406.05882): ranks answers over the batch."""
    chosen, rejected = (BETA * ratio for ratio in ratios(batch))
    return answer(-F.logsigmoid(chosen.sort().values - rejected.sort().values), chosen, rejected)


def with_memory() -> Callable[..., PreferenceLoss]:
    seen = []

    def loss(batch: PreferenceBatch, options: Any) -> PreferenceLoss:
        """The weight of a pair drifts by a millionth per batch: seen only where the same batch comes again."""
        right = logistic(batch, options)
        seen.append(None)
        return evolve(right, losses=right.losses * (1 + 1e-9 * len(seen)))

    return loss


def fractions_of_counts(batch: PreferenceBatch, options: Any) -> PreferenceLoss:
    """A tensor of the counts' type holds no fraction where they are whole numbers."""
    chosen, rejected = (BETA * ratio for ratio in ratios(batch))
    offset = torch.full_like(batch.chosen_tokens, 0.75)
    return answer(-F.logsigmoid(chosen - rejected - offset), chosen, rejected)


def mean_of_counts(batch: PreferenceBatch, options: Any) -> PreferenceLoss:
    if not batch.chosen_tokens.dtype.is_floating_point:
        return logistic(batch, options)
    raise TypeError("expected whole numbers")


def halved_in_evaluation(batch: PreferenceBatch, options: Any) -> PreferenceLoss:
    right = logistic(batch, options)
    return right if torch.is_grad_enabled() else evolve(right, losses=right.losses / 2)


def needs_graph(batch: PreferenceBatch, options: Any) -> PreferenceLoss:
    assert batch.policy_chosen.requires_grad or not torch.is_grad_enabled()
    return logistic(batch, options)


def in_place(batch: PreferenceBatch, options: Any) -> PreferenceLoss:
    chosen = batch.policy_chosen.sub_(batch.reference_chosen) * BETA
    rejected = (batch.policy_rejected - batch.reference_rejected) * BETA
    return answer(-F.logsigmoid(chosen - rejected), chosen, rejected)


def trains_the_reference(batch: PreferenceBatch, options: Any) -> PreferenceLoss:
    batch.reference_chosen.requires_grad_()
    return logistic(batch, options)


def on_the_cpu(batch: PreferenceBatch, options: Any) -> PreferenceLoss:
    right = logistic(batch, options)
    return evolve(right, losses=right.losses + torch.zeros(len(right.losses)))


def unused_reference(batch: PreferenceBatch, options: Any) -> PreferenceLoss:
    return simpo(batch, options)


@pytest.mark.parametrize(
    ("mutant", "caught_by", "says"),
    [
        (swapped_rewards, "rewards follow the log-probabilities", "swapped"),
        (one_reward, "rewards follow the log-probabilities", "gives chosen_rewards alone"),
        (negated, "gradients push the right way", "neutral pair"),
        (lowers_both_alike, "gradients push the right way", "the first must gain on the second"),
        (raises_rejected, "gradients push the right way", "lowering the rejected answer"),
        (chosen_only, "both answers carry gradient", "policy_rejected is 0"),
        (half_detached, "gradients are the losses' derivative", "policy_rejected"),
        (log_of_sigmoid, "extreme log-ratios stay finite", "policy_chosen=-10002.0"),
        (hidden_overflow, "extreme log-ratios stay finite", "the gradient of policy_chosen of 'tried' is nan"),
        (weighted_by_the_batch, "each pair is judged alone", "use no mean, rank or norm"),
        (sorted_pairs, "each pair is judged alone", "use no mean, rank or norm"),
        (with_memory(), "equal batches get equal losses", "the second time"),
        (fractions_of_counts, "token counts may be of any number type", "torch.float32"),
        (mean_of_counts, "token counts may be of any number type", "expected whole numbers"),
        (halved_in_evaluation, "evaluation sees the losses of training", "no_grad()"),
        (needs_graph, "evaluation sees the losses of training", "need no gradient"),
        (in_place, "what it is given stays as it is", "changes policy_chosen"),
        (trains_the_reference, "what it is given stays as it is", "changes reference_chosen"),
        (on_the_cpu, "its tensors are where the batch's are", "device=batch.policy_chosen.device"),
        (unused_reference, "it uses the reference that it asks for", "needs_reference=False"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_exactly_one_check_catches(mutant: Any, caught_by: str, says: str) -> None:
    found = reports(loss_of(mutant))
    assert list(found) == [caught_by]
    assert says in found[caught_by] and "'tried'" in found[caught_by]


def test_certain_answers_are_checked_where_the_loss_is_of_probabilities() -> None:
    found = reports(loss_of(raw_odds, needs_reference=False))
    assert list(found) == ["answers that are certain stay finite"]
    assert "=0.0, " in found["answers that are certain stay finite"]


@pytest.mark.parametrize(
    ("mutant", "says"),
    [
        (lambda batch, options: evolve(logistic(batch, options), losses=logistic(batch, options).losses.mean()), "()"),
        (
            lambda batch, options: evolve(logistic(batch, options), losses=logistic(batch, options).losses[:, None]),
            "1)",
        ),
        (
            lambda batch, options: evolve(logistic(batch, options), losses=logistic(batch, options).losses.squeeze()),
            "()",
        ),
        (
            lambda batch, options: evolve(logistic(batch, options), chosen_rewards=torch.tensor(1.0)),
            "returns chosen_rewards of shape ()",
        ),
        (
            lambda batch, options: evolve(logistic(batch, options), losses=logistic(batch, options).losses.detach()),
            "do not depend on the policy",
        ),
        (lambda batch, options: logistic(batch, options).losses, "return PreferenceLoss"),
        (lambda batch, options: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_what_is_no_loss_per_pair_is_caught_first(mutant: Any, says: str) -> None:
    """Where the answer cannot be used at all, other checks fail too: the first says why."""
    name, said = next(iter(reports(loss_of(mutant)).items()))
    assert name == "there is one loss for each pair"
    assert says in said


def test_a_reference_that_was_not_asked_for_is_none() -> None:
    name, said = next(iter(reports(loss_of(logistic, needs_reference=False)).items()))
    assert name == "there is one loss for each pair"
    assert "needs_reference=False, so the reference's are None" in said
