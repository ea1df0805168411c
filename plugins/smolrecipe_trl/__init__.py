"""Supervised fine-tuning and preference optimisation with TRL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from smolrecipe import Artifact, Proof, StageContext, StageKind, hookimpl
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
        produces=checks.preference_products,
        devices=checks.devices,
        requires=_REQUIRES,
        extra="trl",
    )
