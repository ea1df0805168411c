"""How an exported model generates and where it stops: settings, end of sequence, chat template."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch  # noqa: TID253
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedTokenizerBase  # noqa: TID253

from smolrecipe import Proof, untrusted
from smolrecipe.checkpoint import LONGEST_SECONDS, TEMPLATE_GIB
from smolrecipe_export import ExportOptions

_ANSWER = "Fine."
_LONGEST = 4


def chat_proofs(
    options: ExportOptions, folder: Path, model: Any, tokenizer: PreTrainedTokenizerBase
) -> Iterator[Proof]:
    """Proofs about generation with the loaded model."""
    if options.chat_template is not None and options.chat_template.is_file():
        shipped = tokenizer.chat_template == options.chat_template.read_text(encoding="utf-8")
        yield Proof(
            claim="the chat template is the one asked for",
            holds=shipped,
            note="" if shipped else f"{folder.name}/chat_template.jinja is not {options.chat_template}",
        )
    yield _settings(options, model)
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    end = _end_of_turn(tokenizer)
    if end is not None:
        yield Proof(
            claim="generation ends where the chat template does",
            holds=end in ends,
            measured=f"{', '.join(_name(tokenizer, token) for token in ends)} end it",
            bound=_name(tokenizer, end),
            note="" if end in ends else "generation_config.json names another end: an answer would never stop",
        )
    last = end if end is not None else tokenizer.eos_token_id
    made = _generated(model, tokenizer, last)
    yield Proof(
        claim="generation stops at its end token",
        holds=made == [last],
        measured=f"{len(made)} of {_LONGEST} tokens after {_name(tokenizer, last)}",
        bound="1",
        note="" if made == [last] else f"it went on: {tokenizer.decode(made)!r}",
    )


def _settings(options: ExportOptions, model: Any) -> Proof:
    """What is in force after loading: the settings asked for, and a cache, which training leaves off."""
    asked = {**options.generation.sampling, "use_cache": True}
    if options.generation.repetition_penalty is not None:
        asked["repetition_penalty"] = options.generation.repetition_penalty
    if options.generation.do_sample is not None or options.generation.sampling:
        asked["do_sample"] = options.generation.do_sample is not False
    differing = [
        f"{key} is {getattr(model.generation_config, key)}, not {value}"
        for key, value in asked.items()
        if getattr(model.generation_config, key) != value
    ]
    return Proof.same(
        "generation settings are those asked for", len(differing), len(asked), of="settings", note="; ".join(differing)
    )


def _end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token that the chat template puts behind an answer, if it does."""
    if not tokenizer.chat_template:
        return None
    conversation = [{"role": "user", "content": "How are you?"}, {"role": "assistant", "content": _ANSWER}]
    with untrusted("the chat template does not render a conversation", seconds=LONGEST_SECONDS, gib=TEMPLATE_GIB):
        text = str(tokenizer.apply_chat_template(conversation, tokenize=False))
    behind = tokenizer.encode(text.rpartition(_ANSWER)[2].lstrip(), add_special_tokens=False)
    return behind[0] if behind and behind[0] in tokenizer.added_tokens_decoder else None


class _Only(LogitsProcessor):
    """Lets nothing but one token come next."""

    def __init__(self, token: int) -> None:
        self.token = token

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        alone = torch.full_like(scores, -math.inf)
        alone[:, self.token] = 0
        return alone


def _generated(model: Any, tokenizer: PreTrainedTokenizerBase, token: int) -> list[int]:
    """What the model generates when it says nothing but ``token``."""
    prompt = torch.tensor([tokenizer.encode("Hello") or [token]])
    made = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=_LONGEST,
        do_sample=False,
        num_beams=1,
        num_return_sequences=1,
        logits_processor=LogitsProcessorList([_Only(token)]),
    )
    found: list[int] = made[0, prompt.shape[1] :].tolist()
    return found


def _name(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    return str(tokenizer.convert_ids_to_tokens(token))
