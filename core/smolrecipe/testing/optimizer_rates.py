"""Learning rates and weight decay: each parameter group obeys its own, in every step."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch  # noqa: TID253
from torch import Tensor, nn  # noqa: TID253
from torch.optim.lr_scheduler import LambdaLR  # noqa: TID253

from smolrecipe.components import Optimizer
from smolrecipe.testing.contract import broken
from smolrecipe.testing.parameters import settings_by_group, tiny_weights
from smolrecipe.testing.tiny_training import Training, given_gradients, no_gradients


def check_schedule(component: Optimizer, options: Any) -> None:
    """Multiply the rate as engines do, by 0, by half and by 1."""
    ways = {}
    for factor in (0.0, 0.5, 1.0):
        training = Training(component, options)
        LambdaLR(training.optimizer, lambda index, factor=factor: factor)  # type: ignore[misc]
        ways[factor] = training.run(given_gradients).moved()
    for name, full in ways[1.0].items():
        if ways[0.0][name] != 0:
            broken(
                f"a schedule that says 0 does not stop optimizer '{component.name}': {name} moves by "
                f"{ways[0.0][name]:.3g} all the same; read the rate from group['lr'] in every step, and let it scale "
                "all that a step changes, weight decay too"
            )
        if full and not 0 < ways[0.5][name] < 0.9 * full:
            broken(
                f"a schedule that halves the rate of optimizer '{component.name}' moves {name} by "
                f"{ways[0.5][name]:.3g} instead of {full:.3g}: read the rate from group['lr'] in every step"
            )


def check_rates(component: Optimizer, options: Any) -> None:
    """Let the rate of half of a group's parameters be 0."""
    for index, taken in enumerate(_members(component, options)):
        first, second = _halves(taken)
        training = Training(component, options, partial(_split, index=index, change={}, second={"lr": 0.0}))
        ways = training.run(given_gradients).moved()
        for name in second:
            if ways[name]:
                broken(
                    f"of two groups of optimizer '{component.name}' one has lr=0, and {name} in it moves by "
                    f"{ways[name]:.3g}: each group steps with its own group['lr']"
                )
        if still := [name for name in first if not ways[name]]:
            broken(
                f"of two groups of optimizer '{component.name}' one has lr=0, and {still[0]} in the other stays: each "
                "group steps with its own group['lr']"
            )


def check_decay(component: Optimizer, options: Any) -> None:
    """Give half of a group's parameters a weight decay and the other half none.

    Without it and without gradients nothing may move. With it weights shrink; an optimizer that decays only along its
    update does so where the gradient points to 0.
    """
    start = tiny_weights()

    def to_zero(step: int, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
        return {name: start[name].clone() for name in parameters}

    for index, taken in enumerate(_members(component, options)):
        if "weight_decay" not in _settings(component, options)[index]:
            continue
        rate = {"lr": max(_settings(component, options)[index].get("lr", 0.0), 1e-2)}
        split = partial(_split, index=index, second=rate | {"weight_decay": 0.0})
        first, second = _halves(taken)
        decayed, plain = (
            {
                how: Training(component, options, partial(split, change=rate | {"weight_decay": decay}))
                .run(gradients, steps=10)
                .weights()
                for how, gradients in (("without gradients", no_gradients), ("on the way to 0", to_zero))
            }
            for decay in (0.1, 0.0)
        )
        for name in second:
            if not torch.equal(decayed["without gradients"][name], start[name]):
                broken(
                    f"optimizer '{component.name}' moves {name} without a gradient, though its group has "
                    "weight_decay=0: each group decays by its own group['weight_decay']"
                )
        for name in first:
            if not any(decayed[how][name].double().norm() < plain[how][name].double().norm() for how in decayed):
                broken(
                    f"optimizer '{component.name}' does not decay {name}, though its group has weight_decay=0.1: each "
                    "group decays by its own group['weight_decay']"
                )


def _members(component: Optimizer, options: Any) -> list[list[str]]:
    parameters = {name: nn.Parameter(weight) for name, weight in tiny_weights().items()}
    return [group["param_names"] for group in settings_by_group(component, options, parameters)]


def _settings(component: Optimizer, options: Any) -> list[dict[str, Any]]:
    parameters = {name: nn.Parameter(weight) for name, weight in tiny_weights().items()}
    return settings_by_group(component, options, parameters)


def _halves(taken: list[str]) -> tuple[list[str], list[str]]:
    half = (len(taken) + 1) // 2
    return taken[:half], taken[half:]


def _split(
    groups: list[dict[str, Any]], index: int, change: Mapping[str, Any], second: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Make two of one group: the first half of its parameters with ``change``, the others with ``second`` set."""
    group = groups[index]
    names_ = _halves(group["param_names"])
    params = group["params"][: len(names_[0])], group["params"][len(names_[0]) :]
    parts = [
        group | {"params": params[half], "param_names": names_[half]} | changed
        for half, changed in enumerate((dict(change), dict(second)))
        if params[half]
    ]
    return [*groups[:index], *parts, *groups[index + 1 :]]
