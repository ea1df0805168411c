"""The estimate held against runs whose time is published: where the error bar of a plan comes from.

Each anchor says how many operations a run needed and what it took. The estimate with the plan's own assumptions is
compared with that, and the fastest and the slowest of them, against the estimate, are the bar. The default MFU is that
of the first anchor, which with it says nothing; the next three are the same training, counted in other ways.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from smolrecipe.planning.decoder_size import flops_per_token
from smolrecipe.planning.hardware import GPUS, Assumptions

_SECONDS_PER_HOUR = 3600.0

SMOLLM3 = {
    "model_type": "smollm3",
    "hidden_size": 2048,
    "num_hidden_layers": 36,
    "intermediate_size": 11008,
    "vocab_size": 128256,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "tie_word_embeddings": True,
}
"""stage1_8T.yaml (huggingface/smollm@a041759)."""

LLAMA_1B = {
    "model_type": "llama",
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "intermediate_size": 8192,
    "vocab_size": 128256,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "tie_word_embeddings": True,
}
"""Llama 3.2 1B, the model of the Smol Training Playbook's ablations."""


@frozen(kw_only=True)
class Anchor:
    """A run whose hours of GPUs are published."""

    name: str
    tokens: float
    flops_per_token: float
    gpu_hours: float
    gpu: str
    source: str


def _flops(config: dict[str, object], length: int) -> float:
    found = flops_per_token(config, length)
    assert found is not None
    return found


_PRETRAINED = 4_720_000 * 2_359_296
"""Tokens of SmolLM3's pretraining: steps times tokens of a step (stage1_8T.yaml)."""

ANCHORS: Sequence[Anchor] = (
    Anchor(
        name="SmolLM3, 384 H100, 24 days: the default MFU",
        tokens=_PRETRAINED,
        flops_per_token=_flops(SMOLLM3, 4096),
        gpu_hours=384 * 24 * 24,
        gpu="h100",
        source="blog",
    ),
    Anchor(
        name="the same with its downtime, 30 days",
        tokens=_PRETRAINED,
        flops_per_token=_flops(SMOLLM3, 4096),
        gpu_hours=276_480,
        gpu="h100",
        source="playbook",
    ),
    Anchor(
        name="the same at 13,500 tokens/s a GPU",
        tokens=_PRETRAINED,
        flops_per_token=_flops(SMOLLM3, 4096),
        gpu_hours=_PRETRAINED / 13_500 / _SECONDS_PER_HOUR,
        gpu="h100",
        source="playbook",
    ),
    Anchor(
        name="the same at 14,000 tokens/s a GPU",
        tokens=_PRETRAINED,
        flops_per_token=_flops(SMOLLM3, 4096),
        gpu_hours=_PRETRAINED / 14_000 / _SECONDS_PER_HOUR,
        gpu="h100",
        source="playbook, blog",
    ),
    Anchor(
        name="1B ablation, 45B tokens, 42,000 tokens/s a GPU",
        tokens=45e9,
        flops_per_token=_flops(LLAMA_1B, 4096),
        gpu_hours=45e9 / 42_000 / _SECONDS_PER_HOUR,
        gpu="h100",
        source="playbook",
    ),
)
"""All in bfloat16 at rows of 4096 tokens. The blog is huggingface.co/blog/smollm3, the playbook the Smol Training
Playbook (huggingface.co/spaces/HuggingFaceTB/smol-training-playbook)."""


@frozen(kw_only=True)
class Tried:
    """An anchor and what the estimate says of it, in hours of GPUs."""

    anchor: Anchor
    estimated: float

    @property
    def error(self) -> float:
        """How far the estimate is off, as a share of what is published; negative where it is too short."""
        return self.estimated / self.anchor.gpu_hours - 1


@frozen(kw_only=True)
class ErrorBar:
    """What an estimate may be multiplied with: ``low`` at best, ``high`` at worst, of what is published."""

    low: float
    high: float
    tried: tuple[Tried, ...]


def backtest(assumptions: Assumptions) -> ErrorBar:
    """Try the assumed utilisation on every anchor, with the peak of the anchor's own GPU.

    The bar always holds the estimate itself: who assumes more than any published run has reached gets a bar that says
    so.
    """
    tried = []
    for anchor in ANCHORS:
        speed = assumptions.mfu * GPUS[anchor.gpu].tflops * 1e12
        hours = anchor.tokens * anchor.flops_per_token / speed / _SECONDS_PER_HOUR
        tried.append(Tried(anchor=anchor, estimated=hours))
    ratios = [item.anchor.gpu_hours / item.estimated for item in tried]
    return ErrorBar(low=min(1.0, *ratios), high=max(1.0, *ratios), tried=tuple(tried))
