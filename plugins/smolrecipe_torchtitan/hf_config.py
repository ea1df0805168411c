"""The decoder in a Hugging Face ``config.json``, there and back."""

from __future__ import annotations

from typing import Any

from smolrecipe import HfConfig, StageError
from smolrecipe_torchtitan.options import DecoderOptions

ARCHITECTURE = "SmolLM3ForCausalLM"

DEFAULTS = {
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 11008,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
}
"""What transformers' ``SmolLM3Config`` takes for keys that a ``config.json`` leaves out."""

UNLIKE = {
    "attention_bias": (False, "biases in attention"),
    "mlp_bias": (False, "biases in the feed-forward network"),
    "hidden_act": ("silu", "another activation than SiLU"),
    "attention_dropout": (0.0, "dropout"),
    "quantization_config": (None, "quantized weights"),
}
"""Keys with the one value that the decoder has, which is also transformers' default, and what another one asks for.

Sliding windows (``use_sliding_window``, ``layer_types``) are not among them: a component may give windows to the layers
that it edits. Where none reads them from a config, the keys differ from what the components write, which ``verify``
reports.
"""


def decoder_to_hf(config: HfConfig, options: DecoderOptions) -> None:
    """Write a ``SmolLM3Config`` of transformers 5 in which every layer rotates.

    Nothing is left to that class' defaults: they are those of the 3B model (every fourth layer without RoPE, theta
    2e6), so a key left out would silently change the model.
    """
    config.update(
        model_type="smollm3",
        architectures=[ARCHITECTURE],
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


def decoder_from_hf(config: HfConfig) -> DecoderOptions | None:
    """Read the sizes of a SmolLM3 model; ``None`` for any other, which a component of its own may read.

    What the config leaves out means what transformers takes it for. It does not say whether the weights started
    smaller in deep models (``depth_scaled_init``).

    Raises:
        StageError: for each thing that the config asks for and the decoder does not have, all in one.
    """
    if config.get("model_type") != "smollm3":
        return None
    if problems := _unlike(config):
        raise StageError(f"model component 'decoder' cannot be what config.json describes: {'; '.join(problems)}")
    known = {**DEFAULTS, **config}
    heads, head_dim = known["num_attention_heads"], known.get("head_dim")
    return DecoderOptions(
        hidden_size=known["hidden_size"],
        num_layers=known["num_hidden_layers"],
        num_heads=heads,
        head_dim=known["hidden_size"] // heads if head_dim is None else head_dim,
        intermediate_size=known["intermediate_size"],
        vocab_size=known["vocab_size"],
        rms_norm_eps=float(known["rms_norm_eps"]),
        tie_embeddings=known["tie_word_embeddings"],
        init_std=float(known["initializer_range"]),
    )


def _unlike(config: HfConfig) -> list[str]:
    """What the config asks for that no other component could bring."""
    problems = [
        f"{key} is {config[key]!r} ({what})"
        for key, (ours, what) in UNLIKE.items()
        if key in config and config[key] != ours
    ]
    architectures: list[Any] = config.get("architectures") or [ARCHITECTURE]
    if ARCHITECTURE not in architectures:
        problems.append(f"architectures is {', '.join(map(str, architectures))} and not {ARCHITECTURE}")
    return problems
