"""Supervised fine-tuning and preference optimisation with TRL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from smolrecipe import Artifact, Problem, Proof, StageContext, StageKind, Workload, hookimpl
from smolrecipe_trl import checks
from smolrecipe_trl.options import Parallelism, PreferenceOptions, SftOptions
from smolrecipe_trl.quiet import be_quiet
from smolrecipe_trl.workload import preference_workload, rows_beyond_the_model, sft_workload

if TYPE_CHECKING:
    from smolrecipe.planning.plan import Plan

__all__ = ["Parallelism", "PreferenceOptions", "SftOptions"]

_REQUIRES = ("torch", "trl", "transformers", "accelerate", "datasets")


def run_sft(options: SftOptions, context: StageContext) -> Artifact:
    """Fine-tune on conversations, see ``smolrecipe_trl.sft``."""
    be_quiet()
    from smolrecipe_trl.sft import fine_tune

    return fine_tune(options, context)


def run_preference(options: PreferenceOptions, context: StageContext) -> Artifact:
    """Optimise preferences, see ``smolrecipe_trl.preference``."""
    be_quiet()
    from smolrecipe_trl.preference import align

    return align(options, context)


def verify_sft(options: SftOptions, context: StageContext) -> Iterator[Proof]:
    """Check a fine-tuned model, see ``smolrecipe_trl.proofs.sft``."""
    be_quiet()
    from smolrecipe_trl.proofs.sft import verify_sft

    yield from verify_sft(options, context)


def verify_preference(options: PreferenceOptions, context: StageContext) -> Iterator[Proof]:
    """Check an aligned model, see ``smolrecipe_trl.proofs.preference``."""
    be_quiet()
    from smolrecipe_trl.proofs.preference import verify_preference

    yield from verify_preference(options, context)


TRAINING: Mapping[str, Any] = {
    "chat_template": "smollm3",
    "max_length": 4096,
    "epochs": 1,
    "global_batch": 32,
    "optimizer": {"use": "adamw", "lr": 2.0e-5},
    "schedule": {"use": "cosine", "warmup_ratio": 0.03},
}
"""What the examples of both stage kinds have in common."""


@hookimpl
def smolrecipe_stages() -> Iterable[StageKind]:
    """Offer ``sft`` and ``preference``."""
    yield StageKind(
        name="sft",
        summary="fine-tune on conversations (mid-training, SFT), packed, with the loss on all or on assistant tokens",
        source="trl.SFTTrainer; SmolLM3's mid.yaml and sft.yaml",
        options=SftOptions,
        check=checks.check_sft,
        run=run_sft,
        verify=verify_sft,
        workload=sft_workload,
        example={
            **TRAINING,
            "from": "mid-training",
            "data": {"sums": {"use": "arithmetic", "style": "think", "split": "train"}},
        },
        produces=checks.sft_products,
        devices=checks.devices,
        requires=_REQUIRES,
        extra="trl",
    )
    yield StageKind(
        name="preference",
        summary="align with preference pairs under any preference loss",
        source="trl.DPOTrainer; SmolLM3's dpo.yaml",
        options=PreferenceOptions,
        check=checks.check_preference,
        run=run_preference,
        verify=verify_preference,
        workload=preference_workload,
        example={
            **TRAINING,
            "from": "sft",
            "data": {"sums": {"use": "arithmetic", "style": "preference", "split": "train"}},
            "loss": {"use": "apo_zero", "beta": 0.05},
        },
        produces=checks.preference_products,
        devices=checks.devices,
        requires=_REQUIRES,
        extra="trl",
    )


@hookimpl
def smolrecipe_warn_of_plan(plan: Plan, workloads: Mapping[str, Workload]) -> Iterable[Problem]:
    """Ask about rows that are longer than what the model was trained for."""
    return rows_beyond_the_model(plan, workloads)
