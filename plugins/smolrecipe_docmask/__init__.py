"""Intra-document masking: tokens of a packed row attend only within their own document (arXiv:2402.13991).

A document starts wherever a row's positions restart at 0. Comes after ``decoder``, before or after all components that
keep the attention itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from attrs import frozen

from smolrecipe import HfConfig, ModelComponent, ModelDraft, hookimpl, option


@frozen(kw_only=True)
class DocmaskOptions:
    """Which attention keeps documents apart: one function, computed faster or slower, here or there."""

    backend: Literal["auto", "sdpa", "flex", "varlen", "flash"] = option(
        default="auto",
        identity=False,
        doc=(
            "sdpa: torch's attention, anywhere: on a CPU document by document, where time and memory follow the "
            "documents; on CUDA, under context parallelism and compiled under a dense mask, quadratic in the row; "
            "flex: torch's FlexAttention, compiled, CUDA; varlen: torch's FlashAttention kernels, CUDA, in bfloat16 "
            "whatever the stage's precision, not under context parallelism; flash: the flash-attn library, as varlen; "
            "auto: sdpa on a CPU, on CUDA varlen, and flex under context parallelism"
        ),
    )


def check_draft(options: DocmaskOptions, draft: ModelDraft) -> Iterator[str]:
    """Yield why the backend cannot compute what the draft is built for."""
    from smolrecipe_docmask.backends import refusals

    yield from refusals(draft, options)


def apply(draft: ModelDraft, options: DocmaskOptions) -> None:
    """Give every layer the inner attention of the backend.

    Raises:
        StageError: without a decoder, and where the backend does not run on what the draft is built for.
    """
    from smolrecipe_docmask.attention import apply

    apply(draft, options)


def to_hf(config: HfConfig, options: DocmaskOptions) -> None:
    """Leave the config as it is: packing is a matter of training, and one document per row needs no mask.

    So there is no way back either: no config says how a model's training rows were packed.
    """


@hookimpl
def smolrecipe_model_components() -> Iterable[ModelComponent]:
    """Offer ``docmask``."""
    yield ModelComponent(
        name="docmask",
        summary="tokens of a packed row attend only within their own document",
        source="arXiv:2402.13991",
        options=DocmaskOptions,
        apply=apply,
        to_hf=to_hf,
        after=("decoder",),
        check_draft=check_draft,
    )
