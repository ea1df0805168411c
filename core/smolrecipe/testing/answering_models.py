"""Small models that the kit puts behind the stages that an example names: random weights, bytes, a chat template."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import attrs
from attrs import evolve

from smolrecipe.components import Component
from smolrecipe.options import StageRef
from smolrecipe.stage import CHECKPOINTS_FOLDER, MODEL_FOLDER
from smolrecipe.testing.attempts import only_where

LONGEST = 1024
"""How many tokens a conversation and its answer may have."""

_SPECIAL = ("<|pad|>", "<|end|>", "<|turn|>")
_TEMPLATE = (
    "{% for message in messages %}<|turn|>{{ message['role'] }}: {{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant{% if enable_thinking %} thinks{% endif %}: {% endif %}"
)


def write_model(folder: Path) -> None:
    """Write a Hugging Face checkpoint as stages publish one.

    Raises:
        SkipTest: where transformers or torch is not installed.
    """
    for module in ("torch", "transformers", "tokenizers"):
        only_where(find_spec(module) is not None, f"the kit's model needs {module}, which is not installed here")
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    words = _tokenizer()
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=LONGEST,
        initializer_range=0.4,  # wide enough that what is likeliest depends on all that was said
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    words.save_pretrained(folder)


def _tokenizer() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.decoders import ByteLevel as Joined
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import PreTrainedTokenizerFast

    pieces = [*_SPECIAL, *sorted(ByteLevel.alphabet())]
    made = Tokenizer(BPE({piece: number for number, piece in enumerate(pieces)}, []))
    made.pre_tokenizer, made.decoder = ByteLevel(add_prefix_space=False, use_regex=False), Joined()
    words = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=made, pad_token=_SPECIAL[0], eos_token=_SPECIAL[1], additional_special_tokens=[_SPECIAL[2]]
    )
    words.chat_template = _TEMPLATE
    return words


def with_models(value: Any, folder: Path, models: dict[str, Path]) -> Any:
    """The options with a model behind every stage that they name; ``models`` gets each stage's artifact."""
    if isinstance(value, StageRef):
        root = models.setdefault(value.stage, folder / str(len(models)))
        place = root / CHECKPOINTS_FOLDER / value.checkpoint if value.checkpoint else root
        if not (place / MODEL_FOLDER).exists():
            write_model(place / MODEL_FOLDER)
        return evolve(value, root=root)
    if isinstance(value, (list, tuple)):
        return type(value)(with_models(item, folder, models) for item in value)
    if isinstance(value, Mapping):
        return {key: with_models(item, folder, models) for key, item in value.items()}
    if attrs.has(type(value)) and not isinstance(value, Component):
        return evolve(
            value,
            **{
                field.alias: with_models(getattr(value, field.name), folder, models)
                for field in attrs.fields(type(value))
                if field.init
            },
        )
    return value
