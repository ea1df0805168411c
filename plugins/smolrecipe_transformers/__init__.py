"""Answers of a model that transformers loads, on this machine: the generator ``transformers``."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Literal

from attrs import frozen

from smolrecipe import Answering, Generator, SamplingOptions, StageContext, StageRef, hookimpl, option
from smolrecipe.sampling import check_sampling, hours_at


@frozen(kw_only=True)
class TransformersOptions(SamplingOptions):
    """Which model, and how many conversations it goes on with at once."""

    model: StageRef = option(
        needs="hf-model",
        doc="the stage whose model answers, a folder (./teacher), or a model on the Hub (org/name@commit)",
    )
    precision: Literal["model", "bfloat16", "float32"] = option(
        default="model", doc="the dtype to compute in: that of the model, or another"
    )
    batch_size: int = option(
        default=16,
        at_least=1,
        identity=False,
        doc="conversations at once; another number may change answers where two tokens are as likely to the last bit",
    )
    device: Literal["cpu", "cuda"] = option(default="cpu", identity=False, doc="where the model computes")
    tokens_per_second: float | None = option(
        default=None, more_than=0, identity=False, doc="tokens of answers that one process makes a second, for the plan"
    )


def _open(options: TransformersOptions, context: StageContext) -> AbstractContextManager[Answering]:
    """Load the model; a process of several on one machine takes the GPU of its own number.

    Answers are drawn token by token from ``request.seed`` alone, so that they are the same beside whichever others.

    Raises:
        StageError: for a model that cannot be loaded, or has no chat template.
    """
    from smolrecipe_transformers.answering import open_model

    return open_model(options, context)


@hookimpl
def smolrecipe_generators() -> Iterable[Generator]:
    """Offer ``transformers``."""
    yield Generator(
        name="transformers",
        summary="a model that transformers loads here, in batches; on a CPU too",
        source="transformers generate; draws by the Gumbel-max trick, seeded for each answer",
        options=TransformersOptions,
        check=check_sampling,
        requires=("torch", "transformers", "jinja2"),
        extra="generate",
        open=_open,
        model=lambda options: str(options.model),
        device=lambda options: options.device,
        hours=lambda options, tokens: hours_at(options.tokens_per_second, tokens),
        example={"model": "sft", "max_new_tokens": 64},
    )
