"""Answering requests with ``transformers``' generate, in batches that do not depend on what was answered before.

A batch has requests of neighbouring numbers and of about a length. Which ones lie together follows from their numbers,
so that a stage that goes on after an interruption makes the batches that are left as it would have made them.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby

import torch  # noqa: TID253
from attrs import frozen
from transformers import PreTrainedModel, PreTrainedTokenizerBase  # noqa: TID253

from smolrecipe import Answer, Answering, Request, StageContext, StageError, untrusted
from smolrecipe.checkpoint import LONGEST_SECONDS, TEMPLATE_GIB
from smolrecipe.ready_model import load_ready_model
from smolrecipe_transformers import TransformersOptions
from smolrecipe_transformers.drawing import generated

_BATCHES_IN_A_WINDOW = 8
"""Requests are sorted by length in windows of so many batches: less padding, and little to read ahead."""


@frozen
class _Prompt:
    request: Request
    ids: list[int]


@contextmanager
def open_model(options: TransformersOptions, context: StageContext) -> Iterator[Answering]:
    """The model, ready to answer.

    Raises:
        StageError: for a model that cannot be loaded, or has no chat template.
    """
    dtype = "auto" if options.precision == "model" else getattr(torch, options.precision)
    model, tokenizer = load_ready_model(context.input(options.model), dtype)
    if not tokenizer.chat_template:
        raise StageError(f"the model of '{options.model}' has no chat template, through which it would be asked")
    model.to(torch.device("cuda", context.local_rank) if options.device == "cuda" else torch.device("cpu"))
    answering = _Answering(model, tokenizer, options)
    try:
        yield answering
    finally:
        del model, answering.model
        gc.collect()
        if options.device == "cuda":
            torch.cuda.empty_cache()


class _Answering:
    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: TransformersOptions
    ) -> None:
        self.model = model
        self._tokenizer = tokenizer
        self._options = options

    def __call__(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Answer window by window, see ``smolrecipe.generation.Answering``."""
        size = self._options.batch_size
        for _, window in groupby(requests, key=lambda request: request.number // (size * _BATCHES_IN_A_WINDOW)):
            fitting = []
            for prompt in map(self._prompt, window):
                if self._fits(prompt):
                    fitting.append(prompt)
                else:
                    why = "prompt and answer are longer than the model's positions"
                    yield Answer(number=prompt.request.number, text=why, end="refused", prompt_tokens=len(prompt.ids))
            # The longest first, so that what is too large for the memory is so at once.
            fitting.sort(key=lambda prompt: (-len(prompt.ids), prompt.request.number))
            while fitting:
                # The first batch is the one that may not be full: those that an interruption leaves of a window are
                # then the ones that would have come next.
                count = len(fitting) % size or size
                yield from self._batch(fitting[:count])
                fitting = fitting[count:]

    def _prompt(self, request: Request) -> _Prompt:
        """Raises: StageError: when the chat template does not render the conversation."""
        arguments = {key: value for key, value in request.arguments.items() if value is not None}
        what = f"the chat template of '{self._options.model}' does not render the conversation of row {request.number}"
        with untrusted(what, seconds=LONGEST_SECONDS, gib=TEMPLATE_GIB):
            text = self._tokenizer.apply_chat_template(
                [dict(message) for message in request.messages],
                tokenize=False,
                add_generation_prompt=True,
                **arguments,
            )
        ids = self._tokenizer(str(text), add_special_tokens=False)["input_ids"]
        if not ids:
            raise StageError(f"{what}: it makes no token of it")
        return _Prompt(request, list(ids))

    def _fits(self, prompt: _Prompt) -> bool:
        positions = getattr(self.model.config, "max_position_embeddings", None)
        return positions is None or len(prompt.ids) + self._options.max_new_tokens <= positions

    def _batch(self, prompts: Sequence[_Prompt]) -> Iterator[Answer]:
        found = generated(
            self.model,
            self._tokenizer,
            [prompt.ids for prompt in prompts],
            [prompt.request.seed for prompt in prompts],
            self._options,
        )
        for index, (prompt, (text, end, tokens)) in enumerate(zip(prompts, found, strict=True)):
            yield Answer(
                number=prompt.request.number,
                text=text,
                end=end,
                prompt_tokens=len(prompt.ids),
                tokens=tokens,
                followed=index < len(prompts) - 1,
            )
