"""Models whose every answer is known beforehand, published as stages would, for tests of the evaluation."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"  # read when the engines are first imported

import torch
from attrs import frozen
from tokenizers import Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast, SmolLM3Config, SmolLM3ForCausalLM

from smolrecipe import Source, StageContext, StageRef, Use, option

WORDS = ("<pad>", "<eos>", "</think>", "think", "a", "b", "c", "d", "one", "two", "three", "four", "hm")
IDS = {word: number for number, word in enumerate(WORDS)}
TEMPLATE = (
    "{{ messages[-1].content }}{% if enable_thinking is defined %} {{ 'think' if enable_thinking else 'd' }}{% endif %}"
)


@frozen(kw_only=True)
class RowsOptions:
    rows: list[Any] = option(doc="the problems")


def rows_of(options: RowsOptions) -> Iterator[Mapping[str, Any]]:
    yield from options.rows


def problems(*rows: tuple[str, str] | tuple[str, str, dict[str, Any]], yields: str = "problem") -> Use[Source]:
    source = Source(name="rows", summary="", options=RowsOptions, read=rows_of, yields=lambda options: yields)
    made = [
        {"messages": [{"role": "user", "content": row[0]}], "answer": row[1], "chat_template_kwargs": (*row, {})[2]}
        for row in rows
    ]
    return Use(source, RowsOptions(rows=made))


def texts(*rows: str, yields: str = "text") -> Use[Source]:
    """A source of texts."""
    source = Source(name="rows", summary="", options=RowsOptions, read=rows_of, yields=lambda options: yields)
    return Use(source, RowsOptions(rows=[{"text": row} for row in rows]))


def settings(size: int, **more: Any) -> SmolLM3Config:
    return SmolLM3Config(
        vocab_size=len(WORDS),
        hidden_size=size,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=128,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        **more,
    )


def save(root: Path, stage: str, model: SmolLM3ForCausalLM, template: str | None = TEMPLATE) -> StageRef:
    folder = root / stage / "model"
    model.generation_config.temperature, model.generation_config.do_sample = 0.6, True  # as an exported model has them
    model.save_pretrained(folder)
    words = Tokenizer(WordLevel(IDS, unk_token="hm"))
    words.pre_tokenizer, words.decoder = WhitespaceSplit(), Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", extra_special_tokens=["</think>"]
    )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return StageRef(stage)


def chain(root: Path, stage: str, follow: Mapping[str, str], **more: Any) -> StageRef:
    """Publish a model that answers by a chain: after a word comes ``follow[word]``, and after any other the end.

    Embeddings are unit vectors and the layers add nothing, so the output projection alone says which word comes next.
    """
    model = SmolLM3ForCausalLM(settings(16, tie_word_embeddings=False))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(16)[: len(WORDS)])
        model.lm_head.weight.zero_()
        for word, number in IDS.items():
            model.lm_head.weight[IDS[follow.get(word, "<eos>")], number] = 1
    return save(root, stage, model, **more)


def context(root: Path, *stages: str, said: list[str] | None = None) -> StageContext:
    folder = root / "evaluate.partial"
    folder.mkdir(exist_ok=True)
    return StageContext(
        recipe="test",
        stage="evaluate",
        folder=folder,
        inputs={stage: root / stage for stage in stages},
        report=lambda event: said.append(str(event.get("message"))) if said is not None else None,
    )


def samples(root: Path, model: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "evaluate.partial" / "samples" / f"{model}.jsonl").open()]


def lines(root: Path, kind: str, model: str) -> list[dict[str, Any]]:
    """The samples of a kind that an evaluation has written."""
    return [json.loads(line) for line in (root / "evaluate.partial" / kind / f"{model}.jsonl").open()]
