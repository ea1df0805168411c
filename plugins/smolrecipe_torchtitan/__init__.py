"""Pretraining on torchtitan: the stage kind ``pretrain`` and the model component ``decoder``, which others edit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from smolrecipe import (
    Artifact,
    DryRun,
    Model,
    ModelComponent,
    ModelDraft,
    Problem,
    Proof,
    StageContext,
    StageKind,
    Workload,
    hookimpl,
)
from smolrecipe_torchtitan.checks import check_decoder, check_plan, check_pretrain, devices, produces
from smolrecipe_torchtitan.hf_config import decoder_from_hf, decoder_to_hf
from smolrecipe_torchtitan.options import DecoderOptions, ParallelismOptions, PretrainOptions
from smolrecipe_torchtitan.workload import pretrain_workload, trajectories_that_do_not_add_up

if TYPE_CHECKING:
    from smolrecipe.planning.plan import Plan

__all__ = ["DecoderOptions", "ParallelismOptions", "PretrainOptions"]


def apply_decoder(draft: ModelDraft, options: DecoderOptions) -> None:
    """Set the draft's decoder: multi-head causal attention, RoPE with theta 10000, gated SiLU, RMS norms.

    Raises:
        StageError: when a component before it has set a decoder.
    """
    from smolrecipe_torchtitan.decoder import apply

    apply(draft, options)


def run(options: PretrainOptions, context: StageContext) -> Artifact:
    """Train; on every process of the stage."""
    import gc
    import os

    # OpenMP's threads spin while they wait for each other. Where another program wants the cores too, its default made
    # steps ten times as long; with this they take no longer where none does. Read when torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # torchtitan's imports make a million objects that stay: scanning them for garbage again and again takes a second.
    collecting = gc.isenabled()
    gc.disable()
    try:
        # The device first: torchtitan's other modules take over what it is when they are imported.
        from smolrecipe_torchtitan.device import use_device

        use_device(options.parallelism.device)
        from smolrecipe_torchtitan.pretrain import run
    finally:
        if collecting:
            gc.enable()
    return run(options, context)


def verify(options: PretrainOptions, context: StageContext) -> Iterable[Proof]:
    """Hold a published stage to its recipe: rates, weights, optimizer, labels, masks; on one CPU."""
    from smolrecipe_torchtitan.proofs.stage import verify

    return verify(options, context)


SMALL = {"hidden_size": 64, "num_layers": 4, "num_heads": 4, "intermediate_size": 128, "vocab_size": 128}
"""A decoder for examples."""


@hookimpl
def smolrecipe_verify_model(folder: Path, model: Model) -> Iterable[Proof]:
    """Compare a checkpoint whose decoder is this plugin's with transformers, layer by layer, in float32 on a CPU."""
    if "decoder" not in {use.name for use in model.components.values()}:
        return ()
    from smolrecipe_torchtitan.proofs.model import verify_model

    return verify_model(folder, model)


def dry_run(options: PretrainOptions) -> DryRun:
    """Build the first device of the stage's layout, whatever it is for, on this machine's CPU and without weights."""
    from smolrecipe_torchtitan.device import use_device

    use_device("cpu")
    from smolrecipe_torchtitan.layout import dry_run

    return dry_run(options)


@hookimpl
def smolrecipe_model_components() -> Iterable[ModelComponent]:
    """Offer ``decoder``."""
    yield ModelComponent(
        name="decoder",
        summary="a plain Llama-style decoder for other components to edit",
        source="arXiv:2302.13971; torchtitan.models.llama3",
        options=DecoderOptions,
        check=check_decoder,
        apply=apply_decoder,
        to_hf=decoder_to_hf,
        from_hf=decoder_from_hf,
        example=SMALL,
    )


@hookimpl
def smolrecipe_stages() -> Iterable[StageKind]:
    """Offer ``pretrain``."""
    yield StageKind(
        name="pretrain",
        example={
            "model": {"decoder": {"use": "decoder", **SMALL}},
            "tokenizer": "tokenizer",
            "data": {"use": "mixture", "from": ["tokens"], "weights": {"prose": 1}},
            "steps": 1000,
            "sequence_length": 512,
            "global_batch": 64,
            "optimizer": {"use": "adamw", "lr": 1.0e-3},
            "schedule": {"use": "wsd", "warmup_steps": 100, "decay_start": 900, "decay_steps": 100},
        },
        summary="next-token training with torchtitan",
        source="torchtitan 0.3.0",
        options=PretrainOptions,
        check=check_pretrain,
        produces=produces,
        devices=devices,
        run=run,
        dry_run=dry_run,
        workload=pretrain_workload,
        verify=verify,
        requires=("torch", "torchtitan", "transformers"),
        extra="titan",
    )


@hookimpl
def smolrecipe_check_plan(plan: Plan) -> Iterable[Problem]:
    """Report stages that start from a model which a pretraining stage does not come by."""
    return check_plan(plan)


@hookimpl
def smolrecipe_warn_of_plan(plan: Plan, workloads: Mapping[str, Workload]) -> Iterable[Problem]:
    """Ask about trajectories whose stages do not add up to them."""
    return trajectories_that_do_not_add_up(plan, workloads)
