"""What a pretraining stage amounts to, and what to ask about before it is paid for, from its options alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from smolrecipe import Problem, Workload
from smolrecipe_torchtitan.options import PretrainOptions

if TYPE_CHECKING:
    from smolrecipe.planning.plan import Plan

_RECOMPUTED = {
    "none": 0.0,
    "selective": 1 / 6,  # every second matrix product once more
    "full": 1 / 3,  # the forward pass once more: 2 operations a parameter besides 6
}


def pretrain_workload(options: PretrainOptions, parents: Mapping[str, Workload]) -> Workload:
    """Steps, tokens and model. Rows are packed full, so the tokens are exact."""
    start: int | None = 0
    if options.from_ is not None and options.carry == "everything":
        before = parents[options.from_.stage]
        start = before.last_step if before.last_step is not None else before.steps
    last = start + options.steps if start is not None else None
    return Workload(
        steps=options.steps,
        last_step=last,
        schedule_steps=options.trajectory_steps or last,
        tokens_per_step=options.global_batch * options.sequence_length,
        row_length=options.sequence_length,
        model=options.model.to_hf(),
        more_work=_RECOMPUTED[options.activation_checkpointing],
        precision=options.precision,
    )


def trajectories_that_do_not_add_up(plan: Plan, workloads: Mapping[str, Workload]) -> Iterator[Problem]:
    """Yield a problem for the last stage of a trajectory whose stages make more or fewer steps than it is laid out for.

    A schedule that follows the step count ends where the trajectory does, whatever the stages make of it.
    """
    options = {stage.name: stage.use.options for stage in plan.stages if stage.use.component.name == "pretrain"}
    own = {name: value for name, value in options.items() if isinstance(value, PretrainOptions)}
    continued = {value.from_.stage for value in own.values() if value.from_ is not None and value.carry == "everything"}
    for stage in plan.stages:
        if stage.name not in own or stage.name in continued:
            continue
        asked, made = own[stage.name].trajectory_steps, workloads[stage.name].last_step
        if asked is not None and made is not None and asked != made:
            yield Problem(
                f"stage '{stage.name}': trajectory_steps is {asked:,}, and the stages up to this one make {made:,} "
                f"steps: the learning rate {'stays short of its end' if made < asked else 'is at its end before'}",
                plan.recipe.place(("stages", stage.name, "trajectory_steps")),
            )
