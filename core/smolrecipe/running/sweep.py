"""Running a sweep: every stage once, and a variant that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from smolrecipe.errors import StageError
from smolrecipe.planning.plan import Plan
from smolrecipe.planning.variants import SweepPlan, SweptStage
from smolrecipe.running.runner import Outcome, Runner


@frozen(kw_only=True)
class SweptOutcome:
    """A stage after a sweep: its outcome, or why it has none."""

    swept: SweptStage
    outcome: Outcome | None = None
    failure: str = ""
    """What went wrong in it."""
    waits_for: str = ""
    """The label of the stage whose failure kept it from running."""


def run_sweep(
    sweep: SweepPlan, make_runner: Callable[[Plan], Runner], failed: Callable[[SweptStage, StageError], None]
) -> list[SweptOutcome]:
    """Run the stages of all variants that are not published; ``failed`` is told of each that fails.

    Raises:
        InterruptedRunError: on Ctrl-C; the same sweep goes on from there.
    """
    outcomes: list[SweptOutcome] = []
    blamed: dict[tuple[str, str], str] = {}
    for swept in sweep.stages:
        stage = swept.stage
        parents = [(parent, swept.plan.by_name[parent].digest) for parent in stage.parents]
        blocked = next((blamed[parent] for parent in parents if parent in blamed), "")
        if blocked:
            outcomes.append(SweptOutcome(swept=swept, waits_for=blocked))
        else:
            try:
                outcomes.append(SweptOutcome(swept=swept, outcome=make_runner(swept.plan).complete(stage)))
                continue
            except StageError as error:
                failed(swept, error)
                outcomes.append(SweptOutcome(swept=swept, failure=str(error)))
        blamed[stage.name, stage.digest] = blocked or swept.label
    return outcomes
