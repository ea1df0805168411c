"""Models of a given size with random weights, as Hugging Face checkpoints."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

MODELS: dict[str, dict[str, int]] = {
    "1M": {
        "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2,
        "intermediate_size": 384, "vocab_size": 2048,
    },
    "100M": {
        "hidden_size": 640, "num_hidden_layers": 13, "num_attention_heads": 10, "num_key_value_heads": 5,
        "intermediate_size": 2560, "vocab_size": 32768,
    },
}  # fmt: skip
"""Sizes in the words of a ``config.json``."""


def save_model(
    folder: Path, size: Mapping[str, int], tokenizer: Path, *, seed: int = 0, dtype: str = "float32"
) -> None:
    """Write a SmolLM3 of that size, with a tokenizer's files beside it."""
    import torch
    from transformers import SmolLM3Config, SmolLM3ForCausalLM

    torch.manual_seed(seed)
    model = SmolLM3ForCausalLM(SmolLM3Config(**size, pad_token_id=0, bos_token_id=None, eos_token_id=0))
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    for file in tokenizer.iterdir():
        shutil.copyfile(file, folder / file.name)
