"""Evaluating models with the Language Model Evaluation Harness (lm-eval)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from smolrecipe import Artifact, Devices, Problem, Proof, StageContext, StageKind, Workload, hookimpl
from smolrecipe_lm_eval.checks import check_options, lengths_that_no_model_takes, what_is_missing
from smolrecipe_lm_eval.options import EvaluateOptions

if TYPE_CHECKING:
    from smolrecipe.planning.plan import Plan

__all__ = ["EvaluateOptions"]


def run(options: EvaluateOptions, context: StageContext) -> Artifact:
    """Evaluate the models, see ``smolrecipe_lm_eval.evaluate``."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if not options.download:  # read when huggingface_hub and datasets are first imported
        os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    from smolrecipe_lm_eval.evaluate import evaluate

    return evaluate(options, context)


def verify(options: EvaluateOptions, context: StageContext) -> Iterable[Proof]:
    """Compute scores and a sample of answers again, see ``smolrecipe_lm_eval.proofs``."""
    from smolrecipe_lm_eval.proofs import proofs_of

    return proofs_of(options, context)


def workload(options: EvaluateOptions, parents: Mapping[str, Workload]) -> Workload:
    """No training; the problems and texts that it measures on."""
    problems = {f"problems.{name}": use for name, use in options.problems.items()}
    return Workload(measures_on=problems | {f"texts.{name}": use for name, use in options.texts.items()})


@hookimpl
def smolrecipe_check_plan(plan: Plan) -> Iterable[Problem]:
    """Report contexts and answers that are longer than an evaluated model takes."""
    return lengths_that_no_model_takes(plan)


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
        summary="score models on problems, texts, long contexts (RULER) and the tasks of lm-evaluation-harness",
        source="lm-evaluation-harness 0.4",
        options=EvaluateOptions,
        check=check_options,
        missing=what_is_missing,
        requires=("lm_eval", "accelerate", "torch", "transformers"),
        extra="eval",
        run=run,
        produces=lambda options: {"scores": True},
        devices=lambda options: Devices(device=options.device),
        verify=verify,
        workload=workload,
    )
