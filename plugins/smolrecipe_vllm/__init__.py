"""Answers of a model that vLLM loads here, on one GPU, in batches: the fastest way to many answers without a server.

vLLM is built against CUDA and brings a torch of its own, so that it is installed where nothing is trained. **No test
runs the engine itself**: the tests hold what is light here (options, what is missing, what is refused), and
``smolrecipe_vllm.answering`` follows the signatures of vLLM 0.33, read in its wheel, and calls as little as it can.
A model that takes several GPUs is served with ``vllm serve --tensor-parallel-size`` and asked by the generator
``openai``, which is tested against a server.

vLLM draws each answer from its request's seed. To the last bit it is the same only in the same company: batches of
another shape add in another order. On hardware that has it, ``VLLM_BATCH_INVARIANT=1`` in the environment mends that.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Literal

from attrs import frozen

from smolrecipe import Answering, Generator, SamplingOptions, StageContext, StageRef, hookimpl, option
from smolrecipe.sampling import check_sampling, hours_at


@frozen(kw_only=True)
class VllmOptions(SamplingOptions):
    """The options of the ``vllm`` generator."""

    model: StageRef = option(
        needs="hf-model", doc="the model that answers: a stage, a folder (./teacher) or a name on the Hub (org/name)"
    )
    precision: Literal["bfloat16", "float16", "float32"] = option(
        default="bfloat16", doc="of the weights and of what is computed with them"
    )
    max_length: int | None = option(
        default=None,
        at_least=2,
        doc="longest conversation with its answer, in tokens; what the model's configuration says where not given",
    )
    memory_share: float = option(
        default=0.9,
        more_than=0,
        at_most=1,
        identity=False,
        doc="how much of the GPU's memory vLLM takes, for weights and cache",
    )
    batch: int = option(
        default=256,
        at_least=1,
        identity=False,
        doc="requests that are handed to vLLM together; their answers are kept when the last of them is there, and "
        "another number may change them in the last bit",
    )
    tokens_per_second: float | None = option(
        default=None,
        more_than=0,
        identity=False,
        doc="how many tokens of answers one GPU writes in a second, over all requests, to tell hours from",
    )
    price_per_hour: float | None = option(
        default=None, at_least=0, identity=False, doc="US dollars for an hour of one GPU, to tell costs from"
    )


def check(options: VllmOptions) -> Iterable[str]:
    """Answers that do not fit, an ending that ends all, a price without a speed."""
    if options.max_length is not None and options.max_new_tokens >= options.max_length:
        yield (
            f"'max_new_tokens' is {options.max_new_tokens}, and 'max_length' {options.max_length}, which has to hold "
            "the conversation too: raise 'max_length', or lower 'max_new_tokens'"
        )
    yield from check_sampling(options)
    if options.price_per_hour is not None and options.tokens_per_second is None:
        yield "'price_per_hour' tells no costs without 'tokens_per_second': state both, or neither"


def open_engine(options: VllmOptions, context: StageContext) -> AbstractContextManager[Answering]:
    """Load the model, see ``smolrecipe_vllm.answering``."""
    from smolrecipe_vllm.answering import answering

    return answering(options, context)


def hours(options: VllmOptions, tokens: int) -> float | None:
    """How long one GPU takes for so many tokens of answers."""
    return hours_at(options.tokens_per_second, tokens)


def cost(options: VllmOptions, tokens: int) -> float | None:
    """What these hours cost."""
    time = hours(options, tokens)
    return None if time is None or options.price_per_hour is None else time * options.price_per_hour


@hookimpl
def smolrecipe_generators() -> Iterable[Generator]:
    """Offer ``vllm``."""
    yield Generator(
        name="vllm",
        summary="a model that vLLM loads on one GPU, asked in batches; serve larger ones and use 'openai'",
        source="vLLM 0.33, offline inference",
        options=VllmOptions,
        check=check,
        requires=("vllm",),
        extra="vllm",
        open=open_engine,
        model=lambda options: str(options.model),
        device=lambda options: "cuda",
        hours=hours,
        cost=cost,
        example={"model": "sft"},
    )
