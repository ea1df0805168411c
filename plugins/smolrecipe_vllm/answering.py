"""vLLM's offline engine, asked batch by batch. Written against the signatures of vLLM 0.33; no test runs it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any, Literal

from attrs import evolve

from smolrecipe import Answer, Answering, Request, StageContext, StageError, untrusted
from smolrecipe.checkpoint import LONGEST_SECONDS, TEMPLATE_GIB, check_checkpoint
from smolrecipe_vllm import VllmOptions

VISIBLE = "CUDA_VISIBLE_DEVICES"


@contextmanager
def answering(options: VllmOptions, context: StageContext) -> Iterator[Answering]:
    """The model on this process' GPU.

    Raises:
        StageError: when vLLM cannot load it.
    """
    folder = context.input(options.model)
    check_checkpoint(folder)
    trouble = (
        f"vLLM does not load the model of '{options.model}' (the log has what it says besides; where memory is short, "
        "lower 'max_length', or 'memory_share' if others use the GPU too)"
    )
    with _one_gpu(context.local_rank):
        with untrusted(trouble):
            from vllm import LLM

            engine = LLM(
                model=str(folder),
                dtype=options.precision,
                max_model_len=options.max_length,
                gpu_memory_utilization=options.memory_share,
            )
        try:
            yield lambda requests: _answers(engine, options, requests)
        finally:
            engine.llm_engine.engine_core.shutdown()  # the GPU belongs to a process of its own


@contextmanager
def _one_gpu(place: int) -> Iterator[None]:
    """Let vLLM, which takes the first GPU that it sees, see the one of this process."""
    before = os.environ.get(VISIBLE)
    seen = [name for name in before.split(",") if name] if before is not None else []
    os.environ[VISIBLE] = seen[place] if place < len(seen) else str(place)
    try:
        yield
    finally:
        if before is None:
            del os.environ[VISIBLE]
        else:
            os.environ[VISIBLE] = before


def _answers(engine: Any, options: VllmOptions, requests: Iterable[Request]) -> Iterator[Answer]:
    waiting = iter(requests)
    while batch := list(islice(waiting, options.batch)):
        answers = _batch(engine, options, batch)
        # A batch is kept as a whole, so that one that is cut short comes again in the same company.
        yield from (evolve(answer, followed=True) for answer in answers[:-1])
        yield answers[-1]


def _batch(engine: Any, options: VllmOptions, batch: list[Request]) -> list[Answer]:
    longest = engine.llm_engine.model_config.max_model_len
    answers: list[Answer] = []
    asked: list[tuple[Request, str]] = []
    prompts: list[dict[str, list[int]]] = []
    for request in batch:
        text, ids = _prompt(engine, options, request)
        if len(ids) + options.max_new_tokens <= longest:
            asked.append((request, text))
            prompts.append({"prompt_token_ids": ids})
        else:
            why = "prompt and answer are longer than the model's positions"
            answers.append(Answer(number=request.number, text=why, end="refused", prompt_tokens=len(ids)))
    with untrusted(
        f"vLLM cannot go on with '{options.model}'; what was answered is kept, and the same command goes on"
    ):
        sampling = [_sampling(options, request) for request, _ in asked]
        outputs = engine.generate(prompts, sampling, use_tqdm=False) if prompts else []
    for (request, text), output in zip(asked, outputs, strict=True):
        answers.append(_answer(request, output, text))
    return answers


def _prompt(engine: Any, options: VllmOptions, request: Request) -> tuple[str, list[int]]:
    """The conversation by the model's own template, with its tokens."""
    tokenizer = engine.get_tokenizer()
    messages = [dict(message) for message in request.messages]
    arguments: Mapping[str, Any] = request.arguments
    what = f"the chat template of '{options.model}' does not render the conversation of row {request.number}"
    with untrusted(what, seconds=LONGEST_SECONDS, gib=TEMPLATE_GIB):
        text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **arguments))
    return text, list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _sampling(options: VllmOptions, request: Request) -> Any:
    from vllm import SamplingParams

    return SamplingParams(
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k or 0,  # 0: all
        max_tokens=options.max_new_tokens,
        stop=list(options.stop),
        seed=request.seed,
        skip_special_tokens=False,  # <think> is one in some tokenizers; what ends the turn is left out all the same
        spaces_between_special_tokens=False,
    )


def _answer(request: Request, output: Any, prompt: str) -> Answer:
    made = output.outputs[0]
    if made.finish_reason not in ("stop", "length"):
        raise StageError(f"vLLM gave request {request.number} up ({made.finish_reason}): the same command goes on")
    end: Literal["stop", "length"] = "length" if made.finish_reason == "length" else "stop"
    # Some templates open the reasoning at the end of the prompt.
    opened = prompt.rstrip().endswith("<think>") and not made.text.lstrip().startswith("<think>")
    return Answer(
        number=request.number,
        text="<think>\n" + made.text.lstrip("\n") if opened else made.text,
        end=end,
        prompt_tokens=len(output.prompt_token_ids),
        tokens=len(made.token_ids),
    )
