"""Everything that ``smolrecipe plan`` tells of one recipe, gathered before any of it is printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import frozen

from smolrecipe.cli.dry_run import BuiltStage
from smolrecipe.cli.plan_status import status_in_words
from smolrecipe.cli.session import Session
from smolrecipe.comparing.sides import side_of_plan
from smolrecipe.comparing.why import Explainer, Why
from smolrecipe.components import Workload
from smolrecipe.errors import Problem
from smolrecipe.planning.backtest import ErrorBar, backtest
from smolrecipe.planning.colleague import questions
from smolrecipe.planning.decoder_size import rope_theta
from smolrecipe.planning.estimate import Estimate, Part, Total, estimate, total
from smolrecipe.planning.hardware import Assumptions
from smolrecipe.planning.plan import Plan, PlannedStage
from smolrecipe.planning.variants import SweepPlan
from smolrecipe.planning.workloads import workloads_of
from smolrecipe.running.store import RunStore

_GIB = 2**30


@frozen(kw_only=True)
class StageOutlook:
    """One stage: what would become of it, what it amounts to, what it would take."""

    stage: PlannedStage
    why: Why
    workload: Workload
    estimate: Estimate | None
    done: float
    """The share of its steps that is there already."""
    gib: float | None
    """What one of its devices would hold at the peak, where a dry run has found it."""

    @property
    def status(self) -> str:
        """In few words, with the reason."""
        return status_in_words(self.why)

    @property
    def theta(self) -> float | None:
        """The base of the rotary frequencies."""
        return rope_theta(self.workload.model) if self.workload.model is not None else None


@frozen(kw_only=True)
class Outlook:
    """The whole recipe."""

    plan: Plan
    store: RunStore
    stages: tuple[StageOutlook, ...]
    assumptions: Assumptions
    bar: ErrorBar
    left: Total
    questions: tuple[Problem, ...]


def outlook(
    session: Session,
    plan: Plan,
    store: RunStore,
    assumptions: Assumptions,
    *,
    tokens: Mapping[str, float],
    most_epochs: float,
    built: Sequence[BuiltStage],
) -> Outlook:
    """Gather it; ``tokens`` are its user's word for stages whose options do not tell them."""
    published: dict[str, Path] = {
        stage.name: store.published(stage) for stage in plan.stages if store.is_published(stage)
    }
    workloads = workloads_of(plan, tokens, published)
    explainer = Explainer(
        side=side_of_plan(plan, plan.recipe.name, session.registry.catalog),
        store=store,
        catalog=session.registry.catalog,
    )
    found = {item.stage.name: item.found for item in built}
    stages = []
    for stage in plan.stages:
        why, workload = explainer.explain(stage), workloads[stage.name]
        dry = found.get(stage.name)
        stages.append(
            StageOutlook(
                stage=stage,
                why=why,
                workload=workload,
                estimate=estimate(workload, stage.devices, assumptions),
                done=_done(why, workload),
                gib=dry.bytes / _GIB if dry is not None else None,
            )
        )
    return Outlook(
        plan=plan,
        store=store,
        stages=tuple(stages),
        assumptions=assumptions,
        bar=backtest(assumptions),
        left=total(
            Part(
                name=item.stage.name,
                workload=item.workload,
                devices=item.stage.devices,
                estimate=item.estimate,
                done=item.done,
            )
            for item in stages
        ),
        questions=tuple(questions(plan, workloads, published, most_epochs, session.registry.manager.hook)),
    )


def generation_cost(item: StageOutlook, assumptions: Assumptions) -> float | None:
    """US dollars at most for what models write in a stage: at an endpoint's price, or for the GPUs' hours."""
    written = item.workload.generates
    if written is None or written.cost is not None:
        return None if written is None else written.cost
    if written.hours is None or item.stage.devices.device != "cuda":
        return None
    return written.hours * item.stage.devices.processes * assumptions.price


def _done(why: Why, workload: Workload) -> float:
    if why.status == "published":
        return 1.0
    if why.status == "half done" and why.checkpoint is not None and workload.steps:
        return min(1.0, max(0.0, why.checkpoint / workload.steps))
    return 0.0


def sweep_left(sweep: SweepPlan, store: RunStore, assumptions: Assumptions, tokens: Mapping[str, float]) -> Total:
    """What is left of all variants' stages, each of them once; ``tokens`` hold in every variant."""
    workloads = {id(swept.plan): workloads_of(swept.plan, tokens) for swept in sweep.stages}
    parts = []
    for swept in sweep.stages:
        stage, workload = swept.stage, workloads[id(swept.plan)][swept.stage.name]
        parts.append(
            Part(
                name=swept.label,
                workload=workload,
                devices=stage.devices,
                estimate=estimate(workload, stage.devices, assumptions),
                done=1.0 if store.is_published(stage) else 0.0,
            )
        )
    return total(parts)
