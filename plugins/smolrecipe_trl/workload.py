"""What fine-tuning and preference optimisation amount to, from their options and the model that they start from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from attrs import evolve

from smolrecipe import Problem, Source, Use, Workload
from smolrecipe_trl.options import PreferenceOptions, SftOptions, TrainingOptions

if TYPE_CHECKING:
    from smolrecipe.planning.plan import Plan

_FORWARD = 1 / 3
"""A forward pass, as a share of forward and backward: 2 operations a parameter of 6."""


def sft_workload(options: SftOptions, parents: Mapping[str, Workload]) -> Workload:
    """Of packed rows that are all full, so an upper bound; a wrapped stream is cut into full rows."""
    return evolve(
        _training(options, parents),
        tokens_per_step=options.global_batch * options.max_length,
        at_most=options.packing != "wrapped",
    )


def preference_workload(options: PreferenceOptions, parents: Mapping[str, Workload]) -> Workload:
    """Of pairs whose both rows are as long as they may be, so an upper bound; the reference sees them once more."""
    common = _training(options, parents)
    return evolve(
        common,
        tokens_per_step=2 * options.global_batch * options.max_length,
        at_most=True,
        more_work=common.more_work + (_FORWARD if options.loss.component.needs_reference else 0.0),
    )


def _training(options: TrainingOptions, parents: Mapping[str, Workload]) -> Workload:
    """What both have in common. Steps that follow from epochs are those of data that nobody has counted yet."""
    return Workload(
        steps=options.max_steps,
        row_length=options.max_length,
        model=parents[options.from_.stage].model,
        more_work=_FORWARD if options.activation_checkpointing else 0.0,
        precision=options.precision,
        trains_on=_by_option("data", options.data),
        measures_on=_by_option("held_out", options.held_out),
    )


def _by_option(option: str, sources: Mapping[str, Use[Source]]) -> dict[str, Use[Source]]:
    return {f"{option}.{name}": use for name, use in sources.items()}


def rows_beyond_the_model(plan: Plan, workloads: Mapping[str, Workload]) -> Iterator[Problem]:
    """Yield a problem for each stage whose rows may be longer than the model that it starts from was trained for."""
    for stage in plan.stages:
        options = stage.use.options
        if not isinstance(options, TrainingOptions):
            continue
        model: Mapping[str, Any] = workloads[stage.name].model or {}
        reach = model.get("max_position_embeddings")
        if isinstance(reach, int) and options.max_length > reach:
            yield Problem(
                f"stage '{stage.name}': rows of up to {options.max_length:,} tokens, and the model of "
                f"'{options.from_.stage}' was made for {reach:,} positions: longer rows ask for what it has not seen",
                plan.recipe.place(("stages", stage.name, "max_length")),
            )
