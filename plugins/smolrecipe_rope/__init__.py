"""Rotary position embeddings (arXiv:2104.09864) in the rotate-half convention of Hugging Face.

Comes after ``decoder``, before or after ``gqa`` and ``nope``, and before anything that rescales the frequencies, such
as ``yarn``.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import frozen

from smolrecipe import HfConfig, ModelComponent, ModelDraft, StageError, hookimpl, option

DEFAULTS = {"rope_theta": 2e6, "max_position_embeddings": 32768}
"""What transformers' ``SmolLM3Config`` takes for keys that a ``config.json`` leaves out."""


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


def from_hf(config: HfConfig) -> RopeOptions | None:
    """Read base and bound of a SmolLM3 model.

    Keys are looked for where transformers looks for them and in its order: ``rope_scaling``, where it says anything,
    stands for all of ``rope_parameters``, and a base in there goes before ``rope_theta``. What the config leaves out
    means what transformers takes it for. Where YaRN stretches the context, the bound is the one before.

    Raises:
        StageError: for frequencies that are scaled by something else than YaRN, for a base for each kind of layer, and
            where only a part of a head rotates.
    """
    if config.get("model_type") != "smollm3":
        return None
    source = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
    rotary: HfConfig = config.get(source) or {}
    if nested := [key for key, value in rotary.items() if isinstance(value, dict)]:
        raise StageError(
            f"{source} in config.json is given apart for {', '.join(nested)}: 'rope' has one base for all layers"
        )
    kind = rotary.get("rope_type", rotary.get("type", "default"))
    if kind not in ("default", "yarn"):
        raise StageError(f"rope_type in config.json ({source}) is '{kind}': no model component scales frequencies so")
    part = rotary.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    if part not in (None, 1.0):
        raise StageError(f"partial_rotary_factor in config.json is {part}: 'rope' turns whole heads")
    known: HfConfig = {**DEFAULTS, **config, **rotary}
    bound = known["max_position_embeddings"]
    if kind == "yarn":
        bound = {"original_max_position_embeddings": bound, **rotary, **config}["original_max_position_embeddings"]
    return RopeOptions(theta=float(known["rope_theta"]), max_positions=bound)


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
        from_hf=from_hf,
        after=("decoder",),
        max_positions=lambda options: options.max_positions,
        example={"theta": 50000.0, "max_positions": 4096},
    )
