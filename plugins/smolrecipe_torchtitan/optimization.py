"""A recipe's optimizer and schedule in torchtitan's containers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch  # noqa: TID253
from torch import nn  # noqa: TID253
from torchtitan.components.checkpointer.utils import canonical_fqn  # noqa: TID253
from torchtitan.components.optimizer import (  # noqa: TID253
    LRSchedulersContainer,
    OptimizersContainer,
    ParamGroupConfig,
)

from smolrecipe import Optimizer, Schedule, StageError, Use


class StageOptimizers(OptimizersContainer[torch.optim.Optimizer]):
    """The optimizer of a recipe, one instance per model part.

    What the recipe sets for a parameter group always holds: a loaded checkpoint brings moments and whatever else the
    optimizer keeps, not the settings of the stage that wrote it.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(OptimizersContainer.Config):
        """torchtitan's, with the optimizer's class (or a function that makes one) and its name in messages."""

        factory: Callable[..., torch.optim.Optimizer] | None = None
        name: str = ""

    def __init__(self, config: Config, *, model_parts: list[nn.Module]) -> None:
        self._factory = config.factory
        self._settings = {key for group in config.param_groups for key in group.optimizer_kwargs} | {"initial_lr"}
        super().__init__(config, model_parts=model_parts)

    def _resolve_optimizer_factory(self, name: str) -> Callable[..., torch.optim.Optimizer]:
        if self._factory is None:
            raise ValueError("StageOptimizers.Config.factory is not set")
        return self._factory

    @staticmethod
    def _build_impl_kwargs(config: OptimizersContainer.Config) -> dict[str, Any]:
        return {}  # whether kernels are fused is the optimizer component's to say

    @staticmethod
    def _build_param_groups(
        model: nn.Module, param_group_configs: list[ParamGroupConfig], impl_kwargs: dict[str, Any]
    ) -> tuple[dict[str, list[dict[str, Any]]], dict[str, list[str]]]:
        """Put every parameter into the first group that matches it.

        Unlike torchtitan's, this allows a pattern without a match: a part of a pipeline has only some parameters.
        """
        members: list[list[tuple[str, nn.Parameter]]] = [[] for _ in param_group_configs]
        for raw_name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            name = canonical_fqn(raw_name)
            for group, config in zip(members, param_group_configs, strict=True):
                if re.search(config.pattern, name):
                    group.append((name, parameter))
                    break
            else:
                patterns = ", ".join(f"'{config.pattern}'" for config in param_group_configs)
                raise StageError(
                    f"parameter '{name}' is in no group of the optimizer: none of its patterns ({patterns}) matches "
                    "it; end the groups with one that matches everything, such as '.'"
                )
        groups: dict[str, list[dict[str, Any]]] = {}
        matched: dict[str, list[str]] = {}
        for group, config in zip(members, param_group_configs, strict=True):
            if group:
                groups.setdefault(config.optimizer_name, []).append(
                    {
                        "params": [parameter for _, parameter in group],
                        "param_names": [name for name, _ in group],
                        **config.optimizer_kwargs,
                    }
                )
                matched.setdefault(config.optimizer_name, []).append(config.pattern)
        return groups, matched

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the optimizer's state, keeping this stage's settings."""
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        own = [{key: group[key] for key in self._settings if key in group} for group in groups]
        super().load_state_dict(state_dict)
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group, settings in zip(groups, own, strict=True):
            group.update(settings)


class StageSchedules(LRSchedulersContainer):
    """The schedule of a recipe, the same function of the step for every optimizer."""

    @dataclass(kw_only=True, slots=True)
    class Config(LRSchedulersContainer.Config):
        """``factor(steps done)`` multiplies the peak rate."""

        warmup_steps: int = 0
        factor: Callable[[int], float] | None = None

        def build(self, *, optimizers: OptimizersContainer, training_steps: int) -> StageSchedules:
            """Build the schedules. Called by torchtitan's trainer."""
            if self.factor is None:
                raise ValueError("StageSchedules.Config.factor is not set")
            return StageSchedules(optimizers, self.factor)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after the steps that were done, and set every rate to what the schedule says for the next one.

        torchtitan leaves the rates as they are, so that a first step after a change of stage would use another.
        """
        super().load_state_dict(state_dict)
        for scheduler in self.schedulers:
            for group, rate in zip(scheduler.optimizer.param_groups, scheduler.get_last_lr(), strict=True):
                group["lr"] = rate


def optimizer_config(use: Use[Optimizer]) -> StageOptimizers.Config:
    """The recipe's optimizer for torchtitan.

    Raises:
        StageError: when it has no parameter groups, or one without a learning rate.
    """
    groups = use.component.groups(use.options)
    if not groups:
        raise StageError(f"optimizer '{use.name}' has no parameter groups")
    for group in groups:
        if "lr" not in group.settings:
            raise StageError(f"optimizer '{use.name}' sets no learning rate (lr) for its group '{group.pattern}'")
    return StageOptimizers.Config(
        param_groups=[
            ParamGroupConfig(pattern=group.pattern, optimizer_name=use.name, optimizer_kwargs=dict(group.settings))
            for group in groups
        ],
        factory=use.component.factory(use.options),
        name=use.name,
    )


def schedule_config(use: Use[Schedule], steps: int) -> StageSchedules.Config:
    """The recipe's schedule for torchtitan, over a trajectory of ``steps``."""

    def factor(done: int) -> float:
        # After the last step torchtitan asks for the rate of one more, which is never used.
        step = min(done + 1, steps)
        value = use.component.factor(use.options, step, steps)
        if not (math.isfinite(value) and value >= 0):
            raise StageError(f"schedule '{use.name}' gives {value} for step {step} of {steps}: it must be 0 or more")
        return value

    return StageSchedules.Config(factor=factor)
