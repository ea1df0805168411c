"""What a GPU's fused kernels keep in memory, for tracing a model on a machine without a GPU.

Two operations of a decoder keep other tensors for the backward pass on a GPU than on a CPU, or do not run on a CPU at
all. Both are replaced while a model is traced; nothing is computed.

- Attention through FlashAttention (arXiv:2205.14135, algorithm 1 and section 3.1; torch's ``_flash_attention_forward``
  and ``varlen_attn``, flash-attn) and FlexAttention: queries, keys, values, the output, and one float32 log-sum-exp
  for each query and head; never a matrix of queries by keys.
- RMS norms through torch's ``_fused_rms_norm``: the input as it came, the weight, and one float32 number per row. The
  CPU computes the same from smaller operations, which keep float32 copies of the input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch  # noqa: TID253
import torch.nn.functional as F  # noqa: TID253
from torchtitan.distributed.activation_checkpoint import SelectiveAC  # noqa: TID253
from torchtitan.models.common.attention import FlexAttention, VarlenAttention  # noqa: TID253

Tensor = torch.Tensor


@torch.library.custom_op("smolrecipe_torchtitan::fused_attention", mutates_args=())
def fused_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Stand for a fused attention kernel on tensors without content; heads and head widths come last.

    Returns:
        The output, which has the shape of ``q`` with the width of ``v``, and the log-sum-exp.
    """
    raise NotImplementedError("this operation only traces")


@fused_attention.register_fake
def _outputs(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    return q.new_empty((*q.shape[:-1], v.shape[-1])), q.new_empty(q.shape[:-1], dtype=torch.float32)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx: Any, grad_out: Tensor, grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
    q, k, v, *_ = ctx.saved_tensors
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), None


fused_attention.register_autograd(_gradients, setup_context=_keep)


class _FusedNorm(torch.autograd.Function):
    """Stands for ``_fused_rms_norm`` on tensors without content."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor | None, dims: int) -> Tensor:
        scale = rows.new_empty((*rows.shape[:-dims], *[1] * dims), dtype=torch.float32)
        ctx.save_for_backward(rows, weight, scale)
        return torch.empty_like(rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, _ = ctx.saved_tensors
        return torch.empty_like(rows), None if weight is None else torch.empty_like(weight), None


def _norm(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def norm(rows: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
        if weight is not None and weight.dtype != rows.dtype:  # torch's fused kernel takes one precision
            return original(rows, normalized_shape, weight, eps)
        return _FusedNorm.apply(rows, weight, len(normalized_shape))

    return norm


def _dot_product(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args: Any, **kwargs: Any
) -> Tensor:
    # The kernels take a mask as a term of every score, in the precision of the queries.
    bias = None if attn_mask is None else torch.empty_like(attn_mask, dtype=query.dtype)
    out, _ = fused_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), bias)
    return out.transpose(1, 2)


def _flex_forward(
    self: FlexAttention, q_BLNH: Tensor, k_BLNH: Tensor, v_BLNH: Tensor, *, out_transform: Any = None, **kwargs: Any
) -> Tensor:
    if out_transform is not None:
        raise NotImplementedError("a dry run of attention with an out_transform")
    out, _ = fused_attention(q_BLNH, k_BLNH, v_BLNH, None)
    return out


def _varlen_forward(
    self: VarlenAttention, q_BLNH: Tensor, k_BLNH: Tensor, v_BLNH: Tensor, *, out_transform: Any = None, **kwargs: Any
) -> Tensor:
    if out_transform is not None:
        raise NotImplementedError("a dry run of attention with an out_transform")
    half = q_BLNH.dtype if q_BLNH.dtype in (torch.bfloat16, torch.float16) else torch.bfloat16
    out, _ = fused_attention(q_BLNH.to(half), k_BLNH.to(half), v_BLNH.to(half), None)
    return out.to(q_BLNH.dtype)


def _save_ops(original: Callable[[SelectiveAC], set[Any]]) -> Callable[[SelectiveAC], set[Any]]:
    # Selective activation checkpointing keeps what attention kernels return.
    return lambda policy: original(policy) | {torch.ops.smolrecipe_torchtitan.fused_attention.default}


@contextmanager
def kernels_of_a_gpu() -> Iterator[None]:
    """Let models that are built and traced inside keep what they would keep on a GPU."""
    replaced: list[tuple[Any, str, Any]] = [
        (SelectiveAC, "get_save_ops", _save_ops(SelectiveAC.get_save_ops)),
        (torch, "rms_norm", _norm(torch.rms_norm)),  # which F.rms_norm and nn.RMSNorm call
        (F, "scaled_dot_product_attention", _dot_product),
    ]
    replaced += [(kind, "forward", _flex_forward) for kind in _with_forward(FlexAttention)]
    replaced += [(kind, "forward", _varlen_forward) for kind in _with_forward(VarlenAttention)]
    with ExitStack() as undo:
        for owner, name, value in replaced:
            undo.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        yield


def _with_forward(kind: type) -> Iterator[type]:
    """``kind`` and its subclasses, as far as they define ``forward`` themselves."""
    if "forward" in vars(kind):
        yield kind
    for subclass in kind.__subclasses__():
        yield from _with_forward(subclass)
