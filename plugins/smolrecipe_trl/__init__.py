"""Supervised fine-tuning and preference optimisation with TRL."""

from __future__ import annotations

from collections.abc import Iterable

from smolrecipe import Artifact, StageContext, StageKind, hookimpl
from smolrecipe_trl import checks
from smolrecipe_trl.options import Parallelism, PreferenceOptions, SftOptions
from smolrecipe_trl.quiet import be_quiet

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
        produces=checks.preference_products,
        devices=checks.devices,
        requires=_REQUIRES,
        extra="trl",
    )
