"""QK-norm: an RMS norm on the queries and one on the keys of every layer, head by head, before they rotate.

Two components with one effect on the model. ``qk_norm`` goes with every decoder of grouped-query attention and has no
Hugging Face counterpart: no class of transformers has these norms together with layers that do not rotate (NoPE).
``qk_norm_qwen3`` is for models in which every layer rotates: then the whole is transformers' Qwen3.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from attrs import frozen

from smolrecipe import HfConfig, ModelComponent, ModelDraft, StageError, hookimpl, option

ARCHITECTURE = "Qwen3ForCausalLM"
SOURCE = "arXiv:2505.09388, section 2; arXiv:2010.04245"


@frozen(kw_only=True)
class QkNormOptions:
    """The norms of every layer; their weights start at 1."""

    eps: float = option(default=1e-6, more_than=0, source="Qwen3 config.json", doc="epsilon of both norms")


def apply(draft: ModelDraft, options: QkNormOptions) -> None:
    """Give every layer a norm of the width of a head for its queries and one for its keys.

    Raises:
        StageError: without a decoder, and with attention that is not torchtitan's grouped-query attention.
    """
    from smolrecipe_qk_norm.norms import apply

    apply(draft, options)


def to_qwen3(config: HfConfig, options: QkNormOptions) -> None:
    """Make the config a Qwen3's, which is a SmolLM3's with these norms where every layer rotates.

    Raises:
        StageError: for a model that Qwen3 is not: with layers that do not rotate, with biases of the feed-forward
            network, or with norms of another epsilon.
    """
    refuse = "model component 'qk_norm_qwen3' cannot be exported as Qwen3"
    if not all(config.get("no_rope_layers") or [1]):
        raise StageError(
            f"{refuse}, in which every layer rotates: leave out the component that stops some (nope), or use "
            "'qk_norm', which has no Hugging Face counterpart"
        )
    if config.get("mlp_bias"):
        raise StageError(f"{refuse}, whose feed-forward network has no biases")
    if config.get("rms_norm_eps", options.eps) != options.eps:
        raise StageError(
            f"{refuse}, all of whose norms have one epsilon: set eps to the decoder's {config['rms_norm_eps']}"
        )
    for key in ("no_rope_layers", "no_rope_layer_interval", "mlp_bias"):
        config.pop(key, None)
    config.update(model_type="qwen3", architectures=[ARCHITECTURE])


@hookimpl
def smolrecipe_model_components() -> Iterable[ModelComponent]:
    """Offer ``qk_norm`` and ``qk_norm_qwen3``."""
    shared: dict[str, Any] = {"source": SOURCE, "options": QkNormOptions, "apply": apply}
    yield ModelComponent(
        name="qk_norm",
        summary="RMS norms on queries and keys, head by head; no Hugging Face counterpart",
        to_hf=None,
        after=("decoder",),
        **shared,
    )
    yield ModelComponent(
        name="qk_norm_qwen3",
        summary="the same in a model whose layers all rotate, which is Qwen3 to transformers",
        to_hf=to_qwen3,
        # What these write into the config decides whether it can be a Qwen3's.
        after=("decoder", "gqa", "rope", "nope"),
        **shared,
    )
