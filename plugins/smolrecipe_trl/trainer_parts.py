"""What both trainers have in common: the recipe's optimizer and schedule in place of the engine's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch  # noqa: TID253

from smolrecipe import Optimizer, ParameterGroup, Schedule, StageError, Use


class RecipeTrainer:
    """Mixed into a ``transformers.Trainer`` before it in the order of its classes.

    Args:
        optimizer, schedule: the recipe's; the engine's own names for them are not used.
        scheduled_steps: the steps that the schedule is laid out for, which may be more than are run.
    """

    def __init__(
        self,
        *args: Any,
        optimizer: Use[Optimizer],
        schedule: Use[Schedule],
        scheduled_steps: int,
        **kwargs: Any,
    ) -> None:
        self._recipe_optimizer = optimizer
        self._recipe_schedule = schedule
        self._scheduled_steps = scheduled_steps
        super().__init__(*args, **kwargs)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Build the recipe's optimizer once, with its groups matched on the model's parameter names."""
        if self.optimizer is None:
            use = self._recipe_optimizer
            trained = self.model if model is None else model
            groups = parameter_groups(trained.named_parameters(), use.component.groups(use.options), use.name)
            self.optimizer = use.component.factory(use.options)(groups)
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Build the recipe's schedule once. The engine counts steps from 0, a recipe from 1."""
        if self.lr_scheduler is None:
            use, steps = self._recipe_schedule, self._scheduled_steps
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                self.optimizer if optimizer is None else optimizer,
                lambda index: use.component.factor(use.options, min(index + 1, steps), steps),
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write none: what a stage publishes is described by the run store."""


def parameter_groups(
    parameters: Iterable[tuple[str, torch.nn.Parameter]], groups: Sequence[ParameterGroup], optimizer: str
) -> list[dict[str, Any]]:
    """Parameters sorted into groups: each goes to the first group of which the pattern is found in its name.

    Raises:
        StageError: for parameters that no group takes.
    """
    members: list[list[torch.nn.Parameter]] = [[] for _ in groups]
    homeless = []
    for name, parameter in parameters:
        if not parameter.requires_grad:
            continue
        found = next((index for index, group in enumerate(groups) if re.search(group.pattern, name)), None)
        if found is None:
            homeless.append(name)
        else:
            members[found].append(parameter)
    if homeless:
        raise StageError(f"optimizer '{optimizer}' has no parameter group for {', '.join(homeless[:5])}")
    return [{"params": taken, **group.settings} for group, taken in zip(groups, members, strict=True) if taken]
