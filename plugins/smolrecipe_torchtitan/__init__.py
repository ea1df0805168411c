"""Pretraining on torchtitan: the stage kind ``pretrain`` and the model component ``decoder``, which others edit."""

from __future__ import annotations

from collections.abc import Iterable

from smolrecipe import Artifact, HfConfig, ModelComponent, ModelDraft, StageContext, StageKind, hookimpl
from smolrecipe_torchtitan.checks import check_decoder, check_pretrain, devices, produces
from smolrecipe_torchtitan.options import DecoderOptions, ParallelismOptions, PretrainOptions

__all__ = ["DecoderOptions", "ParallelismOptions", "PretrainOptions"]


def apply_decoder(draft: ModelDraft, options: DecoderOptions) -> None:
    """Set the draft's decoder: multi-head causal attention, RoPE with theta 10000, gated SiLU, RMS norms.

    Raises:
        StageError: when a component before it has set a decoder.
    """
    from smolrecipe_torchtitan.decoder import apply

    apply(draft, options)


def decoder_to_hf(config: HfConfig, options: DecoderOptions) -> None:
    """Write a ``SmolLM3Config`` of transformers 5 in which every layer rotates.

    Nothing is left to that class' defaults: they are those of the 3B model (every fourth layer without RoPE, theta
    2e6), so a key left out would silently change the model.
    """
    config.update(
        model_type="smollm3",
        architectures=["SmolLM3ForCausalLM"],
        vocab_size=options.vocab_size,
        hidden_size=options.hidden_size,
        intermediate_size=options.intermediate_size,
        num_hidden_layers=options.num_layers,
        num_attention_heads=options.num_heads,
        num_key_value_heads=options.num_heads,
        head_dim=options.width_of_head,
        hidden_act="silu",
        rms_norm_eps=options.rms_norm_eps,
        initializer_range=options.init_std,
        attention_bias=False,
        attention_dropout=0.0,
        mlp_bias=False,
        tie_word_embeddings=options.tie_embeddings,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        no_rope_layers=[1] * options.num_layers,
        use_sliding_window=False,
        sliding_window=None,
        layer_types=["full_attention"] * options.num_layers,
        use_cache=True,
    )


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
    )


@hookimpl
def smolrecipe_stages() -> Iterable[StageKind]:
    """Offer ``pretrain``."""
    yield StageKind(
        name="pretrain",
        summary="next-token training with torchtitan",
        source="torchtitan 0.3.0",
        options=PretrainOptions,
        check=check_pretrain,
        produces=produces,
        devices=devices,
        run=run,
        requires=("torch", "torchtitan", "transformers"),
        extra="titan",
    )
