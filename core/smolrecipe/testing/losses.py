"""What a preference loss must hold: one number per pair, with gradients that can be trusted at any log-ratio.

What is checked of the direction of learning is what all published losses share, those that lower the chosen answer too
(APO-down) and those that know no reference (SimPO, ORPO) among them: see ``_check_direction``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch  # noqa: TID253
from attrs import evolve
from torch import Tensor  # noqa: TID253
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: TID253

from smolrecipe.components import Loss
from smolrecipe.preference import PreferenceBatch, PreferenceLoss
from smolrecipe.testing import preference_pairs
from smolrecipe.testing.contract import Check, ContractError, broken
from smolrecipe.testing.preference_pairs import CERTAIN, EXTREME, LOSING, NEUTRAL, ORDINARY, Pair

ROUNDING = 1e-6
"""Relative difference that rounding explains, also where a loss computes in float32."""


def checks(component: Loss, options: Any) -> Iterator[Check]:
    """The checks of a preference loss with the options of its example."""
    every: list[tuple[str, Callable[[Loss, Any], None]]] = [
        ("there is one loss for each pair", _check_shapes),
        ("rewards follow the log-probabilities", _check_rewards),
        ("gradients push the right way", _check_direction),
        ("both answers carry gradient", _check_both),
        ("gradients are the losses' derivative", _check_derivative),
        ("extreme log-ratios stay finite", _check_extremes),
        ("answers that are certain stay finite", _check_certain),
        ("each pair is judged alone", _check_alone),
        ("equal batches get equal losses", _check_memory),
        ("token counts may be of any number type", _check_counts),
        ("evaluation sees the losses of training", _check_evaluation),
        ("what it is given stays as it is", _check_untouched),
        ("its tensors are where the batch's are", _check_device),
    ]
    if component.needs_reference:
        every.append(("it uses the reference that it asks for", _check_reference))
    for name, check in every:
        yield Check(name=name, run=partial(check, component, options))


def batch_of(
    component: Loss,
    pairs: Sequence[Pair],
    dtype: torch.dtype = torch.float64,
    trained: bool = True,
    device: str = "cpu",
) -> tuple[PreferenceBatch, Tensor, Tensor]:
    """A batch for this loss, with the leaves behind the policy's log-probabilities (see ``preference_pairs``)."""
    return preference_pairs.batch_of(pairs, component.needs_reference, dtype, trained, device)


def judged(component: Loss, options: Any, batch: PreferenceBatch, of: str) -> PreferenceLoss:
    """What the loss makes of the batch; ``of`` names the batch in messages.

    Raises:
        ContractError: when it fails, or returns anything but a ``PreferenceLoss`` with one number for each pair.
    """
    try:
        answer: Any = component.loss(batch, options)
    except Exception as error:
        hint = "" if component.needs_reference else "; it declares needs_reference=False, so the reference's are None"
        broken(f"loss '{component.name}' fails on {of} with {type(error).__name__}: {error}{hint}")
    if not isinstance(answer, PreferenceLoss) or not isinstance(answer.losses, Tensor):
        broken(f"loss '{component.name}' returns {answer!r}: return PreferenceLoss(losses=a tensor, ...)")
    shape = tuple(batch.policy_chosen.shape)
    for name in ("losses", "chosen_rewards", "rejected_rewards"):
        value = getattr(answer, name)
        if value is None and name != "losses":
            continue
        if not isinstance(value, Tensor) or tuple(value.shape) != shape or not value.is_floating_point():
            found = f"of shape {tuple(value.shape)} in {value.dtype}" if isinstance(value, Tensor) else repr(value)
            broken(
                f"loss '{component.name}' returns {name} {found} on {of}: one number of a floating type for each pair, "
                f"of shape {shape}; the engine averages"
            )
    return answer


class Slopes(NamedTuple):
    """Losses of pairs and their gradients with regard to the policy's log-probabilities, each of shape (pairs,)."""

    answer: PreferenceLoss
    chosen: Tensor
    rejected: Tensor


def slopes(component: Loss, options: Any, pairs: Sequence[Pair], of: str, dtype: torch.dtype = torch.float64) -> Slopes:
    """Judge the pairs and go back through the sum of their losses."""
    batch, chosen, rejected = batch_of(component, pairs, dtype)
    answer = judged(component, options, batch, of)
    try:
        found = torch.autograd.grad(answer.losses.sum(), (chosen, rejected), allow_unused=True)
    except RuntimeError as error:
        broken(f"there is no way back through the losses of '{component.name}' on {of}: {error}")
    gradients = (torch.zeros_like(chosen) if one is None else one for one in found)
    return Slopes(answer, *gradients)


def _check_shapes(component: Loss, options: Any) -> None:
    for pairs in (ORDINARY, ORDINARY[:1]):
        answer = judged(component, options, batch_of(component, pairs)[0], f"a batch of {len(pairs)}")
        if not answer.losses.requires_grad:
            broken(
                f"the losses of '{component.name}' do not depend on the policy (losses.requires_grad is false): "
                "compute them from policy_chosen and policy_rejected without detach() and without no_grad()"
            )


def _check_rewards(component: Loss, options: Any) -> None:
    """Rewards are reported, often detached, so they are held to differences instead of gradients."""
    answer = judged(component, options, batch_of(component, NEUTRAL)[0], "neutral pairs")
    given = {
        side: getattr(answer, f"{side}_rewards")
        for side in ("chosen", "rejected")
        if getattr(answer, f"{side}_rewards") is not None
    }
    if len(given) == 1:
        (only,) = given
        broken(f"loss '{component.name}' gives {only}_rewards alone: a margin takes both; give both or neither")
    for side, before in given.items():
        moved = [_moved(pair, side, 1.0) for pair in NEUTRAL]
        other = judged(component, options, batch_of(component, moved)[0], f"a {side} answer that is 1 nat likelier")
        after = getattr(other, f"{side}_rewards")
        if not bool((after > before).all()):
            broken(
                f"a {side} answer that the policy holds 1 nat likelier gets a {side} reward of {after[0]:.6g} instead "
                f"of {before[0]:.6g} from loss '{component.name}': a reward rises with its own answer's probability "
                "(are the two swapped, or negated?)"
            )


def _check_direction(component: Loss, options: Any) -> None:
    """Hold the loss to what every preference loss does to pairs that are not won yet.

    Where answers of equal length are equally likely and have moved equally far from the reference, and where the
    rejected one is a fifth of a nat ahead, a step down the gradient (-dL/dc, -dL/dr) moves the chosen answer more than
    the rejected one: dL/dr > dL/dc. And where they are equally likely, lowering the rejected answer does not raise the
    loss: dL/dr >= 0. Nothing is asked of the chosen answer alone, which APO-down lowers, and nothing of pairs that are
    clearly won or lost: there hinges are flat, sigmoids saturate and squared losses (IPO) turn back.
    """
    for what, pairs in (("neutral", NEUTRAL), ("narrowly lost", LOSING)):
        found = slopes(component, options, pairs, f"{what} pairs")
        scale = float(torch.stack([found.chosen, found.rejected]).abs().max())
        for pair, chosen, rejected in zip(pairs, found.chosen.tolist(), found.rejected.tolist(), strict=True):
            if not rejected - chosen > ROUNDING * scale:
                broken(
                    f"loss '{component.name}' does not learn to prefer the chosen answer of a {what} pair: a step down "
                    f"its gradient changes the chosen log-probability by {-chosen:+.3g} and the rejected one by "
                    f"{-rejected:+.3g} (times the rate), and the first must gain on the second; the pair is {pair}"
                )
            if what == "neutral" and rejected < -ROUNDING * scale:
                broken(
                    f"lowering the rejected answer of a neutral pair raises loss '{component.name}' (its derivative "
                    f"with regard to policy_rejected is {rejected:.3g}): it must not; the pair is {pair}"
                )


def _check_both(component: Loss, options: Any) -> None:
    found = slopes(component, options, (*ORDINARY, *NEUTRAL, *LOSING), "ordinary pairs")
    for side in ("chosen", "rejected"):
        if not bool(getattr(found, side).any()):
            broken(
                f"the gradient of loss '{component.name}' with regard to policy_{side} is 0 for every pair: a "
                "preference loss learns from both answers"
            )


def _check_derivative(component: Loss, options: Any) -> None:
    """Compare autograd with differences over a hundredth of a nat, each pair alone in its batch.

    The derivative has to lie between the slope to the left and the slope to the right, so that a kink (a hinge) may
    lie on a pair; the tolerance of 1 % leaves room for a loss that computes in float32.
    """
    step = 1e-2
    for pair in (*ORDINARY, *LOSING):
        found = slopes(component, options, [pair], "an ordinary pair")
        here = found.answer.losses.item()
        for side, autograd in (("chosen", found.chosen.item()), ("rejected", found.rejected.item())):
            left, right = ((_loss_of(component, options, _moved(pair, side, by)) - here) / by for by in (-step, step))
            allowed = 1e-2 * max(abs(left), abs(right), abs(found.chosen.item())) + 1e-5
            if not min(left, right) - allowed <= autograd <= max(left, right) + allowed:
                broken(
                    f"autograd says that loss '{component.name}' has the derivative {autograd:.6g} with regard to "
                    f"policy_{side}, and moving that by {step} nats shows {(left + right) / 2:.6g}: does a part of it "
                    f"not pass gradients on (detach, .item(), a backward of its own)? The pair is {pair}"
                )


def _moved(pair: Pair, side: str, by: float) -> Pair:
    name = f"policy_{side}"
    return pair._replace(**{name: getattr(pair, name) + by})


def _loss_of(component: Loss, options: Any, pair: Pair) -> float:
    return judged(component, options, batch_of(component, [pair])[0], "an ordinary pair").losses.item()


def _check_extremes(component: Loss, options: Any) -> None:
    _hold_finite(component, options, EXTREME, "log-ratios of up to 10,000 nats")


def _check_certain(component: Loss, options: Any) -> None:
    _hold_finite(component, options, CERTAIN, "log-probabilities of 0")


def _hold_finite(component: Loss, options: Any, pairs: Sequence[Pair], of: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        found = slopes(component, options, pairs, f"{of} in {dtype}", dtype)
        named = {
            "the loss": found.answer.losses,
            "the gradient of policy_chosen": found.chosen,
            "the gradient of policy_rejected": found.rejected,
            "the chosen reward": found.answer.chosen_rewards,
            "the rejected reward": found.answer.rejected_rewards,
        }
        for name, values in named.items():
            if values is not None and not bool(values.isfinite().all()):
                index = int((~values.isfinite()).nonzero()[0])
                broken(
                    f"{name} of '{component.name}' is {values[index].item()} in {dtype} for {pairs[index]}: one such "
                    "pair ruins a training; use logsigmoid for log(sigmoid(x)), expm1 and log1p, or bound what can grow"
                )


def _check_alone(component: Loss, options: Any) -> None:
    together = slopes(component, options, ORDINARY, "ordinary pairs")
    for name, order in (
        ("in another order", range(len(ORDINARY) - 1, -1, -1)),
        *((f"alone in its batch ({ORDINARY[i]})", [i]) for i in range(len(ORDINARY))),
    ):
        indices = list(order)
        found = slopes(component, options, [ORDINARY[index] for index in indices], f"a pair {name}")
        for what, ours, theirs in (
            ("losses", found.answer.losses, together.answer.losses),
            ("gradients", found.chosen, together.chosen),
            ("gradients", found.rejected, together.rejected),
        ):
            if not _close(ours, theirs[indices]):
                broken(
                    f"a pair {name} gets other {what} from loss '{component.name}' than among others: how many pairs "
                    "share a batch is a matter of memory and must not change what is learned; use no mean, rank or "
                    "norm over the batch"
                )


def _check_memory(component: Loss, options: Any) -> None:
    first = slopes(component, options, ORDINARY, "ordinary pairs")
    slopes(component, options, NEUTRAL, "neutral pairs")
    again = slopes(component, options, ORDINARY, "ordinary pairs, seen again")
    if not all(
        torch.equal(one, two)
        for one, two in (
            (first.answer.losses, again.answer.losses),
            (first.chosen, again.chosen),
            (first.rejected, again.rejected),
        )
    ):
        broken(
            f"loss '{component.name}' judges the same batch otherwise the second time: it must draw nothing at random "
            "and remember nothing of earlier batches, which a resumed run does not see"
        )


def _check_counts(component: Loss, options: Any) -> None:
    """Engines count in whole numbers; the proofs of a published stage read the counts as floating-point numbers."""
    expected = judged(component, options, batch_of(component, ORDINARY)[0], "token counts in torch.int64").losses
    for dtype in (torch.int32, torch.float32, torch.float64):
        batch = batch_of(component, ORDINARY)[0]
        other = evolve(
            batch, chosen_tokens=batch.chosen_tokens.to(dtype), rejected_tokens=batch.rejected_tokens.to(dtype)
        )
        losses = judged(component, options, other, f"token counts in {dtype}").losses
        if not _close(losses, expected, 1e-5):
            broken(
                f"loss '{component.name}' gives {losses[0]:.6g} with token counts in {dtype} and {expected[0]:.6g} "
                "with the same in torch.int64: divide by the counts, and make no tensor of their type for fractions"
            )


def _check_evaluation(component: Loss, options: Any) -> None:
    trained = judged(component, options, batch_of(component, ORDINARY)[0], "ordinary pairs")
    for what, recorded in (("under no_grad()", False), ("with tensors that need no gradient", True)):
        batch = batch_of(component, ORDINARY, trained=not recorded)[0]
        with torch.set_grad_enabled(recorded):
            found = judged(component, options, batch, f"held-out pairs {what}")
        if not _close(found.losses, trained.losses):
            broken(
                f"loss '{component.name}' judges the same pairs otherwise {what}: held-out losses are computed so and "
                "compared with training's"
            )


def _check_untouched(component: Loss, options: Any) -> None:
    for trained in (True, False):
        batch = batch_of(component, ORDINARY, trained=trained)[0]
        fields = {name: value for name in Pair._fields if (value := getattr(batch, name)) is not None}
        before = {name: (value.detach().clone(), value.requires_grad) for name, value in fields.items()}
        try:
            judged(component, options, batch, "ordinary pairs")
        except ContractError:
            continue  # where it cannot judge them, other checks say so
        for name, value in fields.items():
            if not torch.equal(value.detach(), before[name][0]) or value.requires_grad != before[name][1]:
                broken(
                    f"loss '{component.name}' changes {name} of the batch that it is given: the engine reports it "
                    "afterwards; compute anew instead of in place (no -=, no sub_(), no requires_grad_())"
                )


def _check_device(component: Loss, options: Any) -> None:
    """Judge tensors that claim to lie on an accelerator; nothing is computed, so none is needed."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        batch = batch_of(component, ORDINARY, torch.float32, device="cuda")[0]
        try:
            judged(component, options, batch, "tensors on an accelerator")
        except ContractError as error:
            if "same device" in str(error):
                broken(f"{error}: make tensors with device=batch.policy_chosen.device, or as new_tensor() of one")


def _check_reference(component: Loss, options: Any) -> None:
    moved = [
        pair._replace(reference_chosen=pair.reference_chosen - 1.0, reference_rejected=pair.reference_rejected + 2.0)
        for pair in ORDINARY
    ]
    found = slopes(component, options, ORDINARY, "ordinary pairs")
    other = slopes(component, options, moved, "pairs with another reference")
    if all(
        _close(one, two)
        for one, two in (
            (found.answer.losses, other.answer.losses),
            (found.chosen, other.chosen),
            (found.rejected, other.rejected),
        )
    ):
        broken(
            f"loss '{component.name}' is the same whatever the reference's log-probabilities are: declare "
            "needs_reference=False, so that no second model is loaded and run for it"
        )


def _close(one: Tensor, two: Tensor, tolerance: float = ROUNDING) -> bool:
    """Whether two tensors agree to ``tolerance``, relative to the largest number among them."""
    if one.shape != two.shape:
        return False
    largest = float(torch.stack([one.detach(), two.detach()]).abs().max())
    return torch.allclose(one.detach(), two.detach(), rtol=0, atol=tolerance * largest)
