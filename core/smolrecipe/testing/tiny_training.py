"""A tiny SmolLM3's parameters in the hands of an optimizer, step by step and the same each time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch  # noqa: TID253
from torch import Tensor, nn  # noqa: TID253

from smolrecipe.components import Optimizer
from smolrecipe.testing.contract import broken
from smolrecipe.testing.parameters import built, settings_by_group, tiny_weights

STEPS = 3
"""Steps that a check looks at where one might not be enough: some optimizers only measure in their first one."""

Gradients = Callable[[int, Mapping[str, nn.Parameter]], Mapping[str, Tensor]]
"""The gradients of a step, by the names of the parameters."""


class Training:
    """A tiny model's parameters with the optimizer over them."""

    def __init__(
        self,
        component: Optimizer,
        options: Any,
        change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]] = lambda groups: groups,
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Build it, with ``change`` made to the groups before."""
        self.name = component.name
        self.start = dict(weights or tiny_weights())
        self.parameters = {name: nn.Parameter(weight.clone()) for name, weight in self.start.items()}
        groups = change(settings_by_group(component, options, self.parameters))
        self.optimizer = built(component, options, groups)

    def run(self, gradients: Gradients, first: int = 0, steps: int = STEPS) -> Training:
        """Make steps, counted from ``first``; parameters that get no gradient have none."""
        for step in range(first, first + steps):
            given = gradients(step, self.parameters)
            for name, parameter in self.parameters.items():
                parameter.grad = given.get(name)
            try:
                self.optimizer.step()
            except Exception as error:
                broken(f"step {step + 1} of optimizer '{self.name}' fails with {type(error).__name__}: {error}")
        return self

    def weights(self) -> dict[str, Tensor]:
        """The weights now."""
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def moved(self) -> dict[str, float]:
        """How far each parameter has come from its start: the length of the difference."""
        return {name: float((weight - self.start[name]).double().norm()) for name, weight in self.weights().items()}


def given_gradients(step: int, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Random gradients that depend on nothing but the step, none of them 0."""
    generator = torch.Generator().manual_seed(step)
    return {name: torch.randn(parameter.shape, generator=generator) for name, parameter in parameters.items()}


def no_gradients(step: int, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Gradients of 0."""
    return {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
