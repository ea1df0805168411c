"""Rotary position embeddings (arXiv:2104.09864) in the rotate-half convention of Hugging Face.

Comes before or after ``gqa`` and ``nope``, but before anything that rescales the frequencies, such as ``yarn``.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import frozen

from smolrecipe import HfConfig, ModelComponent, ModelDraft, hookimpl, option


@frozen(kw_only=True)
class RopeOptions:
    """The frequencies of the rotation and how far they are meant to reach."""

    theta: float = option(
        more_than=1, doc="base of the frequencies: pair i of a head turns by theta**(-2i / head_dim) per position"
    )
    max_positions: int = option(at_least=1, doc="longest sequence that the model is meant for, in tokens")


def apply(draft: ModelDraft, options: RopeOptions) -> None:
    """Set base and bound of every layer's rotary module; layers without rotation stay without.

    Raises:
        StageError: without a decoder, with attention that has no rotary module, and after a component that has
            rescaled the frequencies.
    """
    from smolrecipe_rope.rotary import apply

    apply(draft, options)


def to_hf(config: HfConfig, options: RopeOptions) -> None:
    """Write ``rope_parameters`` and ``max_position_embeddings`` as transformers 5 names them.

    The base is always written: without it transformers falls back to the model class' own (2e6 for SmolLM3). The keys
    of older releases go, because transformers reads them before these.
    """
    config.pop("rope_theta", None)
    config.pop("rope_scaling", None)
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": float(options.theta)}
    config["max_position_embeddings"] = options.max_positions


@hookimpl
def smolrecipe_model_components() -> Iterable[ModelComponent]:
    """Offer ``rope``."""
    yield ModelComponent(
        name="rope",
        summary="rotary position embeddings with a given base",
        source="arXiv:2104.09864",
        options=RopeOptions,
        apply=apply,
        to_hf=to_hf,
        max_positions=lambda options: options.max_positions,
    )
