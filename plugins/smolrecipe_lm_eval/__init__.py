"""Evaluating models with the Language Model Evaluation Harness (lm-eval)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from attrs import frozen

from smolrecipe import (
    Artifact,
    Devices,
    Problem,
    Proof,
    Source,
    StageContext,
    StageKind,
    StageRef,
    Use,
    Workload,
    hookimpl,
    option,
)

if TYPE_CHECKING:
    from smolrecipe.planning.plan import Plan


@frozen(kw_only=True)
class EvaluateOptions:
    """The options of the ``evaluate`` stage."""

    models: list[StageRef] = option(
        needs="hf-model", doc="the stages whose models are evaluated, in the order in which they are compared"
    )
    problems: Mapping[str, Use[Source]] = option(
        factory=dict,
        ordered=False,
        doc="sources of problems with one right answer; each becomes a task, answered greedily and scored by exact "
        "match",
    )
    problem_prompts: Literal["chat", "plain"] = option(
        default="chat",
        doc="chat: problems are prompted through the model's own chat template. plain: the text of their messages is "
        "continued as it stands, for models that have learned no chat",
    )
    stop: list[str] = option(
        factory=list, doc="texts that end the answer to a problem, besides the model's end of sequence"
    )
    tasks: list[str] = option(factory=list, doc="names of lm-eval's own tasks, groups or tags")
    num_fewshot: int | None = option(
        default=None, at_least=0, doc="examples in the prompt of lm-eval's tasks; without it, each task's own number"
    )
    apply_chat_template: bool = option(
        default=False, doc="prompt lm-eval's tasks through the model's chat template, as a chat model is used"
    )
    system_instruction: str | None = option(
        default=None, doc="a system message for lm-eval's tasks, for example /no_think"
    )
    limit: int | None = option(default=None, at_least=1, doc="at most this many samples of each task")
    max_new_tokens: int = option(default=64, at_least=1, doc="longest answer to a problem, in tokens")
    think_end: str = option(
        default="</think>", doc="what ends a reasoning trace; only what follows the last one is the answer"
    )
    precision: Literal["model", "bfloat16", "float32"] = option(
        default="model", doc="the dtype to evaluate in: that of the model, or another"
    )
    seed: int = option(default=0, at_least=0, doc="for few-shot examples and tasks that sample")
    batch_size: int = option(default=64, at_least=1, identity=False, doc="sequences at once")
    device: Literal["cpu", "cuda"] = option(default="cpu", identity=False, doc="where the models run")
    download: bool = option(
        default=False,
        identity=False,
        doc="let lm-eval fetch its tasks' data from the Hub; without it only what is on this machine is used",
    )


def run(options: EvaluateOptions, context: StageContext) -> Artifact:
    """Evaluate the models, see ``smolrecipe_lm_eval.evaluate``."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if not options.download:  # read when huggingface_hub and datasets are first imported
        os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    from smolrecipe_lm_eval.evaluate import evaluate

    return evaluate(options, context)


def verify(options: EvaluateOptions, context: StageContext) -> Iterable[Proof]:
    """Compute scores and a sample of answers again, see ``smolrecipe_lm_eval.proofs``."""
    from smolrecipe_lm_eval.proofs import proofs

    return proofs(options, context)


def check(options: EvaluateOptions) -> Iterable[str]:
    """Nothing to evaluate, names that would be confused, sources that hold no problems."""
    if not options.models:
        yield "'models' is empty: there is nothing to evaluate"
    if not options.problems and not options.tasks:
        yield "neither 'problems' nor 'tasks' is given: there is nothing to evaluate with"
    names = [str(ref) for ref in options.models]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"'models' names '{name}' more than once"
    for name in sorted(set(options.problems) & set(options.tasks)):
        yield f"'{name}' is both under 'problems' and under 'tasks': give the problems another name"
    for name, use in options.problems.items():
        shape = use.component.yields(use.options)
        if shape != "problem":
            yield f"source '{name}' ({use.name}) yields {shape} rows, but 'problems' needs problem rows"


def workload(options: EvaluateOptions, parents: Mapping[str, Workload]) -> Workload:
    """No training; the problems that it measures on."""
    return Workload(measures_on={f"problems.{name}": use for name, use in options.problems.items()})


@hookimpl
def smolrecipe_warn_of_plan(plan: Plan, workloads: Mapping[str, Workload]) -> Iterable[Problem]:
    """Ask about stages that train on what a task of lm-eval tests with."""
    from smolrecipe_lm_eval.trained_on_tests import trained_on_tests

    return trained_on_tests(plan, workloads)


@hookimpl
def smolrecipe_stages() -> Iterable[StageKind]:
    """Offer ``evaluate``."""
    yield StageKind(
        name="evaluate",
        example={"models": ["sft", "apo"], "tasks": ["gsm8k"]},
        summary="score models on problems and on the tasks of lm-evaluation-harness",
        source="lm-evaluation-harness 0.4",
        options=EvaluateOptions,
        check=check,
        requires=("lm_eval", "accelerate", "torch", "transformers"),
        extra="eval",
        run=run,
        produces=lambda options: {"scores": True},
        devices=lambda options: Devices(device=options.device),
        verify=verify,
        workload=workload,
    )
