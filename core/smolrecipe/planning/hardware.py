"""What is assumed of the hardware: how fast a GPU is, how much of that training reaches, what an hour of it costs."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

MFU = 0.286
"""The share of a GPU's peak that training reaches. SmolLM3's 11.136T tokens in 24 days on 384 H100 (blog) are 13,985
tokens a second on each; with 20,262 million operations a token (causal attention) that is 28.6 % of 989.5 TFLOP/s."""


@frozen(kw_only=True)
class Gpu:
    """A kind of GPU."""

    tflops: float
    """Peak of dense bfloat16 products, 1e12 operations a second."""
    memory_gib: int
    price: float
    """US dollars an hour, on demand."""
    source: str


_PRICES = "prices: middle of specialised clouds' on-demand range, May 2026 (mercatus-ai.com/blog/cloud-gpu-pricing)"

GPUS: Mapping[str, Gpu] = {
    "a100": Gpu(tflops=312, memory_gib=80, price=1.30, source=f"NVIDIA A100 data sheet, SXM; {_PRICES}"),
    # 1,979 TFLOP/s with sparsity, halved; the number that SmolLM3's utilisation is counted with.
    "h100": Gpu(tflops=989.5, memory_gib=80, price=3.00, source=f"NVIDIA H100 data sheet, SXM; {_PRICES}"),
    "h200": Gpu(tflops=989.5, memory_gib=141, price=4.00, source=f"NVIDIA H200 data sheet, SXM; {_PRICES}"),
}
"""By the names that ``smolrecipe plan --gpu`` takes."""


@frozen(kw_only=True)
class Assumptions:
    """What an estimate rests on."""

    gpu: str = "h100"
    mfu: float = MFU
    peak_tflops: float = GPUS["h100"].tflops
    """1e12 operations a second of one GPU."""
    peak_is_given: bool = False
    """Whether its user has said it, and so for whatever precision the stages have."""
    price: float = GPUS["h100"].price
    """US dollars an hour of one GPU."""

    @property
    def flops_per_second(self) -> float:
        """What one GPU is assumed to compute."""
        return self.mfu * self.peak_tflops * 1e12
