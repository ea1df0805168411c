"""What a careful colleague would ask about before a plan is paid for: the core's own questions, then the plugins'."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from smolrecipe.components import Schedule, Source, Workload
from smolrecipe.errors import Problem
from smolrecipe.options import Use, walk
from smolrecipe.planning.plan import Plan, PlannedStage
from smolrecipe.planning.schedule_end import schedule_problem
from smolrecipe.planning.workloads import last_step_of
from smolrecipe.recipe.nodes import Path_

MOST_EPOCHS = 4.0
"""Repeating data up to about four times is nearly as good as new data of the same size: Muennighoff et al. 2023,
"Scaling Data-Constrained Language Models", arXiv:2305.16264."""


def questions(
    plan: Plan, workloads: Mapping[str, Workload], published: Mapping[str, Path], most_epochs: float, hook: Any
) -> list[Problem]:
    """Everything to ask about, with its place; ``hook`` is the plugin manager's, asked for what plugins know."""
    known = {"plan": plan, "workloads": workloads, "published": published, "most_epochs": most_epochs}
    return [
        *_schedules(plan, workloads),
        *_own_evaluation(plan, workloads),
        *(problem for plugin in hook.smolrecipe_warn_of_plan.get_hookimpls() for problem in _asked(plugin, known)),
    ]


def _asked(plugin: Any, known: Mapping[str, Any]) -> list[Problem]:
    """What one plugin asks about; a plugin that fails in it is told of, and keeps nothing from being planned."""
    try:
        return list(plugin.function(*(known[name] for name in plugin.argnames)))
    except Exception as error:
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        return [Problem(f"plugin '{plugin.plugin_name}' could not say what it would ask about: {what}")]


def _schedules(plan: Plan, workloads: Mapping[str, Workload]) -> Iterator[Problem]:
    """Schedules that end elsewhere than the steps that they are laid out for; of one trajectory, its last stage's."""
    told: dict[tuple[str, int], None] = {}
    for stage in plan.stages:
        workload = workloads[stage.name]
        steps = workload.schedule_steps or last_step_of(workload)
        if steps is None or _is_continued(stage, plan, workloads):
            continue
        for path, value, _ in walk(stage.use, ("stages", stage.name)):
            if isinstance(value, Use) and isinstance(value.component, Schedule):
                message = schedule_problem(value, steps)
                if message and (message, steps) not in told:
                    told[message, steps] = None
                    yield Problem(f"stage '{stage.name}': {message}", plan.recipe.place(path))


def _is_continued(stage: PlannedStage, plan: Plan, workloads: Mapping[str, Workload]) -> bool:
    """Whether a later stage counts on from this one's last step."""
    end = last_step_of(workloads[stage.name])
    for later in plan.stages:
        workload = workloads[later.name]
        if stage.name in later.parents and workload.last_step is not None and workload.steps is not None:
            start = workload.last_step - workload.steps
            if start > 0 and start == end:
                return True
    return False


def _own_evaluation(plan: Plan, workloads: Mapping[str, Workload]) -> Iterator[Problem]:
    """Sources that are measured on and that the stage itself, or one that it is made from, has learned."""
    learned: dict[str, dict[str, str]] = {}
    """Of each stage what it is made from has learned: where rows come from -> which stage's option names it."""
    for stage in plan.stages:
        workload = workloads[stage.name]
        own = {name: place for parent in stage.parents for name, place in learned[parent].items()}
        for option, use in workload.trains_on.items():
            own.update(dict.fromkeys(_origins(use), f"'{option}' of stage '{stage.name}'"))
        learned[stage.name] = own
        for option, use in workload.measures_on.items():
            known = next((own[name] for name in _origins(use) if name in own), None)
            if known is not None:
                yield Problem(
                    f"stage '{stage.name}' measures on '{option}', whose rows may be those that {known} trains on: "
                    "what it measures is then memory",
                    plan.recipe.place(_path(stage, option)),
                )


def _origins(use: Use[Source]) -> list[str]:
    """Names for where a source's rows come from, of its own kind of source."""
    tell = use.component.origins
    return [f"{use.name} {name}" for name in (tell(use.options) if tell is not None else [repr(use.options)])]


def _path(stage: PlannedStage, option: str) -> Path_:
    head, _, rest = option.partition(".")
    return ("stages", stage.name, head, *([rest] if rest else []))
