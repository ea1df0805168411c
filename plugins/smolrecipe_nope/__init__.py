"""NoPE: no rotary embedding in every n-th layer (arXiv:2501.18795, "RNoPE"; the rule is nanotron's and SmolLM3's).

May come before or after ``gqa``, ``rope`` and ``yarn``.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import frozen

from smolrecipe import HfConfig, ModelComponent, ModelDraft, StageError, hookimpl, option


@frozen(kw_only=True)
class NopeOptions:
    """Which layers have no rotary embedding."""

    every: int = option(
        default=4,
        at_least=1,
        source="SmolLM3 config.json, no_rope_layer_interval",
        doc="every n-th layer has no rotary embedding: layer i, counted from 0, where (i + 1) % every == 0",
    )


def apply(draft: ModelDraft, options: NopeOptions) -> None:
    """Replace the rotary module of every n-th layer by one that returns queries and keys as they are.

    Raises:
        StageError: without a decoder, with attention that has no rotary module, and where no layer is reached.
    """
    from smolrecipe_nope.rotary import apply

    apply(draft, options)


def to_hf(config: HfConfig, options: NopeOptions) -> None:
    """Write ``no_rope_layers``, where 1 means that the layer *uses* rotary embeddings, and the interval.

    Raises:
        StageError: when the config does not say how many layers there are.
    """
    if "num_hidden_layers" not in config:
        raise StageError("model component 'nope' finds no num_hidden_layers in the config to list the layers of")
    config["no_rope_layers"] = [int((index + 1) % options.every != 0) for index in range(config["num_hidden_layers"])]
    config["no_rope_layer_interval"] = options.every


@hookimpl
def smolrecipe_model_components() -> Iterable[ModelComponent]:
    """Offer ``nope``."""
    yield ModelComponent(
        name="nope",
        summary="no rotary embedding in every n-th layer",
        source="arXiv:2501.18795",
        options=NopeOptions,
        apply=apply,
        to_hf=to_hf,
    )
