"""One batch of answers, drawn token by token, each from a seed of its own.

Shape suffixes: B batch, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch  # noqa: TID253
from transformers import (  # noqa: TID253
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from smolrecipe import SamplingOptions, StageError

Drawn = tuple[str, Literal["stop", "length"], int]
"""Text, how it ended, and its tokens."""

_TOKENS_WITHOUT_TEXT = 8
"""Tokens that may lie among those of a text and read as nothing, as parts of a character do."""


class SeededDraw(LogitsProcessor):
    """Makes the likeliest token a draw: the largest of logits plus Gumbel noise is distributed as their softmax.

    Each row's noise comes from a generator of its own (the Gumbel-max trick, Gumbel 1954; Maddison et al.,
    arXiv:1411.0030, equation 2), where ``do_sample`` would draw all rows from one.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self._generators = [torch.Generator(device=device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores of shape (B, V) with noise; what is minus infinity stays so."""
        noise_BV = torch.empty_like(scores, dtype=torch.float32)
        for row, generator in zip(noise_BV, self._generators, strict=True):
            row.exponential_(generator=generator)
        drawn: Any = scores.float() - noise_BV.clamp_min_(torch.finfo(torch.float32).tiny).log_()
        return drawn


class StopsAtTexts(StoppingCriteria):
    """Ends an answer that has one of some texts in it, seen in what its last tokens read.

    transformers' own ``stop_strings`` matches tokens one by one, which fails for tokenizers that put spaces between.
    """

    def __init__(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, prompt_length: int) -> None:
        self._texts = texts
        self._tokenizer = tokenizer
        self._start = prompt_length
        self._tail = max(map(len, texts)) + _TOKENS_WITHOUT_TEXT

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **more: Any) -> Any:
        """Which rows end, shape (B,)."""
        read = [_text(self._tokenizer, row[-self._tail :]) for row in input_ids[:, self._start :].tolist()]
        return torch.tensor([any(text in each for text in self._texts) for each in read], device=input_ids.device)


@torch.inference_mode()
def generated(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    options: SamplingOptions,
) -> list[Drawn]:
    """What the model writes behind each prompt, up to its end of turn, a text of ``stop``, or the most tokens.

    Raises:
        StageError: when neither the model nor its tokenizer names a token that ends a turn.
    """
    ends = _ends(model, tokenizer)
    filler = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(ends)
    longest = max(map(len, prompts))
    ids = torch.tensor([[filler] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    generate: Any = model.generate
    found = generate(
        input_ids=ids,
        attention_mask=mask,
        generation_config=GenerationConfig(
            do_sample=False,
            max_new_tokens=options.max_new_tokens,
            eos_token_id=sorted(ends),
            pad_token_id=filler,
        ),
        logits_processor=_processors(seeds, model.device, options),
        stopping_criteria=StoppingCriteriaList(
            [StopsAtTexts(options.stop, tokenizer, longest)] if options.stop else []
        ),
    )
    return [_drawn(row, ends, tokenizer, options) for row in found[:, longest:].tolist()]


def _ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    named = model.generation_config.eos_token_id if model.generation_config is not None else None
    ends = {*(named if isinstance(named, list) else [named]), tokenizer.eos_token_id} - {None}
    if not ends:
        raise StageError("neither the model nor its tokenizer names an eos_token, which ends an answer")
    return ends


def _processors(seeds: Sequence[int], device: torch.device, options: SamplingOptions) -> LogitsProcessorList:
    if options.temperature == 0:
        return LogitsProcessorList()
    processors: list[LogitsProcessor] = [TemperatureLogitsWarper(options.temperature)]
    if options.top_k is not None:
        processors.append(TopKLogitsWarper(options.top_k))
    if options.top_p < 1:
        processors.append(TopPLogitsWarper(options.top_p))
    return LogitsProcessorList([*processors, SeededDraw(seeds, device)])


def _drawn(ids: Sequence[int], ends: set[int], tokenizer: PreTrainedTokenizerBase, options: SamplingOptions) -> Drawn:
    """A row's tokens as text. What follows its end is filler, for it lay beside longer ones."""
    count = next((index for index, token in enumerate(ids) if token in ends), len(ids))
    text = _text(tokenizer, ids[:count])
    found = [at for stop in options.stop if (at := text.find(stop)) >= 0]
    if found:
        return text[: min(found)], "stop", count
    return text, "stop" if count < len(ids) else "length", count


def _text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Tokens as text. Control tokens are kept: a reasoning trace is told by two of them."""
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
