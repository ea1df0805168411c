"""What the stages of a plan amount to, asked of their kinds one after the other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from attrs import evolve

from smolrecipe.components import Workload
from smolrecipe.planning.decoder_size import flops_per_token
from smolrecipe.planning.plan import Plan
from smolrecipe.stage import MODEL_FOLDER
from smolrecipe.strict_json import read_mapping


def workloads_of(
    plan: Plan, tokens: Mapping[str, float] | None = None, published: Mapping[str, Path] | None = None
) -> dict[str, Workload]:
    """The workload of every stage, by name; one without numbers where a stage's kind does not tell.

    ``tokens`` are what its user knows better: how many tokens a stage trains on in all. The steps follow from them.
    ``published`` are folders of artifacts, whose ``config.json`` tells the model where options do not.
    """
    found: dict[str, Workload] = {}
    for stage in plan.stages:
        ask = stage.use.component.workload
        parents = {name: found[name] for name in stage.parents}
        workload = ask(stage.use.options, parents) if ask is not None else Workload()
        if workload.model is None and published is not None and stage.name in published:
            with suppress(ValueError):  # none there, or damaged: another command's to report
                workload = evolve(workload, model=read_mapping(published[stage.name] / MODEL_FOLDER / "config.json"))
        known = (tokens or {}).get(stage.name)
        if known is not None:
            in_step = workload.tokens_per_step
            steps = math.ceil(known / in_step) if in_step and workload.steps is None else workload.steps
            workload = evolve(workload, tokens=round(known), steps=steps, at_most=False)
        found[stage.name] = workload
    return found


def tokens_of(workload: Workload) -> int | None:
    """All tokens that a stage trains on, ``None`` where that is not known."""
    if workload.tokens is not None:
        return workload.tokens
    if workload.steps is None or workload.tokens_per_step is None:
        return None
    return workload.steps * workload.tokens_per_step


def flops_of(workload: Workload) -> float | None:
    """Floating point operations of all the stage's training, ``None`` where they are not known.

    Of a stage with pairs or packed rows, attention counts as over whole rows: an upper bound.
    """
    tokens, each = tokens_of(workload), workload.flops_per_token
    if each is None and workload.model is not None and workload.row_length is not None:
        each = flops_per_token(workload.model, workload.row_length)
    if tokens is None or each is None:
        return None
    return tokens * each * (1 + workload.more_work)


def last_step_of(workload: Workload) -> int | None:
    """The number of the stage's last step on its learning-rate trajectory."""
    return workload.last_step if workload.last_step is not None else workload.steps


def trains(workload: Workload) -> bool:
    """Whether the stage trains a model at all, as far as its kind tells."""
    return workload.row_length is not None or tokens_of(workload) is not None
