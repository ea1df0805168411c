"""The decoder in a Hugging Face config.json, there and back."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve
from transformers import SmolLM3Config

from smolrecipe import Model, StageError, Use
from smolrecipe.verifying.from_config import unlike
from smolrecipe_torchtitan import DecoderOptions, smolrecipe_model_components

(DECODER,) = smolrecipe_model_components()
PLAIN = DecoderOptions(hidden_size=48, num_layers=3, num_heads=4, head_dim=12, intermediate_size=96, vocab_size=64)


def written(options: DecoderOptions) -> dict[str, Any]:
    config: dict[str, Any] = {}
    assert DECODER.to_hf is not None
    DECODER.to_hf(config, options)
    return config


def read(config: dict[str, Any]) -> Any:
    assert DECODER.from_hf is not None
    return DECODER.from_hf(config)


@pytest.mark.parametrize(
    "options",
    [
        PLAIN,
        evolve(PLAIN, head_dim=20),
        evolve(PLAIN, tie_embeddings=False, init_std=0.05),
        evolve(PLAIN, rms_norm_eps=1e-5, num_layers=1),
        evolve(PLAIN, hidden_size=2048, num_heads=16, head_dim=128, num_layers=36, vocab_size=128256),
    ],
)
def test_options_come_back_from_a_config(options: DecoderOptions) -> None:
    assert read(written(options)) == options
    assert read(SmolLM3Config(**written(options)).to_dict()) == options


def test_what_no_config_says() -> None:
    """How weights began does not show in a config; how wide a head is always does."""
    assert read(written(evolve(PLAIN, depth_scaled_init=False, head_dim=None))) == PLAIN


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"hidden_size": 1024, "num_attention_heads": 8, "initializer_range": 0.01},
        {"num_hidden_layers": 12, "vocab_size": 1000, "tie_word_embeddings": False},
        {"head_dim": 64, "intermediate_size": 99, "rms_norm_eps": 1e-5},
        {"sliding_window": 4096, "layer_types": ["full_attention"] * 36, "pretraining_tp": 2},  # without effect
    ],
)
def test_what_a_config_leaves_out_is_what_transformers_takes_it_for(given: dict[str, Any]) -> None:
    """Read from the bare config, and written again: transformers sees the same model."""
    theirs = SmolLM3Config(**given)
    options = read({"model_type": "smollm3", **given})
    assert options == read(theirs.to_dict())
    again = SmolLM3Config(**written(options))
    for key in (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "hidden_act",
        "initializer_range",
        "rms_norm_eps",
        "tie_word_embeddings",
        "attention_bias",
        "mlp_bias",
        "layer_types",
    ):
        assert getattr(again, key) == getattr(theirs, key), key
    assert again.head_dim == getattr(theirs, "head_dim", theirs.hidden_size // theirs.num_attention_heads)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"attention_bias": True}, r"attention_bias is True \(biases in attention\)"),
        ({"mlp_bias": True}, "mlp_bias is True"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"attention_dropout": 0.1}, "attention_dropout is 0.1"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
        ({"architectures": ["SmolLM3ForSequenceClassification"]}, "architectures is SmolLM3ForSequenceClassification"),
    ],
)
def test_what_the_decoder_is_not_is_refused_by_its_key(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(StageError, match=complaint):
        read({"model_type": "smollm3", **given})


def test_all_that_does_not_fit_is_named_at_once() -> None:
    with pytest.raises(StageError, match=r"attention_bias.*; hidden_act"):
        read({"model_type": "smollm3", "hidden_act": "relu", "attention_bias": True})


def test_windows_are_for_another_component_to_read_and_are_not_written_here() -> None:
    """Without such a component, ``smolrecipe verify`` finds these keys unlike what is written."""
    kinds = ["sliding_attention"] * 2 + ["full_attention"]
    given = {**written(PLAIN), "use_sliding_window": True, "sliding_window": 8, "layer_types": kinds}
    assert read(given) == PLAIN
    differing = unlike(given, Model({"decoder": Use(DECODER, PLAIN)}))
    assert set(differing) == {"use_sliding_window", "sliding_window", "layer_types"}


@pytest.mark.parametrize("kind", ["llama", "qwen2", None])
def test_other_models_are_left_to_other_components(kind: str | None) -> None:
    assert read({"model_type": kind, "hidden_size": 64, "attention_bias": True}) is None
