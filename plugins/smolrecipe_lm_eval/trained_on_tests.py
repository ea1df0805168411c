"""Training on what lm-eval's own tasks test with, as far as names tell: light, before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from smolrecipe import Problem, Source, Use, Workload
from smolrecipe_lm_eval import EvaluateOptions

if TYPE_CHECKING:
    from smolrecipe.planning.plan import Plan

_TESTED_WITH = ("test", "validation", "dev")
"""What splits are called that lm-eval's tasks take their questions from."""


def trained_on_tests(plan: Plan, workloads: Mapping[str, Workload]) -> Iterator[Problem]:
    """Yield a problem for each task whose data set a stage trains on, in a split that tasks test with.

    A task is named after its data set (``gsm8k``: ``openai/gsm8k``), or after it and a part of it (``mmlu_anatomy``).
    Any source counts whose options have an ``id`` and a ``split``.
    """
    learned: dict[str, dict[str, str]] = {}
    """Of each stage what it is made from has learned: data set -> a sentence about where."""
    for stage in plan.stages:
        own = {name: where for parent in stage.parents for name, where in learned[parent].items()}
        for option, use in workloads[stage.name].trains_on.items():
            name, split = _data_set(use)
            if name and split.startswith(_TESTED_WITH):
                own[name] = f"'{option}' of stage '{stage.name}' trains on its split '{split}'"
        learned[stage.name] = own
        if not isinstance(stage.use.options, EvaluateOptions):
            continue
        for index, task in enumerate(stage.use.options.tasks):
            for name, where in own.items():
                if task.lower() == name or task.lower().startswith(f"{name}_"):
                    yield Problem(
                        f"stage '{stage.name}' measures with '{task}', and {where}: what it measures is then memory",
                        plan.recipe.place(("stages", stage.name, "tasks", index)),
                    )


def _data_set(use: Use[Source]) -> tuple[str, str]:
    """The last part of a data set's name, and the split; nothing where the source has none."""
    name, split = getattr(use.options, "id", None), getattr(use.options, "split", None)
    if not isinstance(name, str) or not isinstance(split, str):
        return "", ""
    return name.rsplit("/", 1)[-1].lower(), split.lower()
