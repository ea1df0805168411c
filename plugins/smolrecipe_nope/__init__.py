"""NoPE: no rotary embedding in every n-th layer (arXiv:2501.18795, "RNoPE"; the rule is nanotron's and SmolLM3's).

Comes after ``decoder``, before or after ``gqa``, ``rope`` and ``yarn``.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import frozen

from smolrecipe import HfConfig, ModelComponent, ModelDraft, StageError, hookimpl, option

DEFAULTS = {"num_hidden_layers": 36, "no_rope_layer_interval": 4}
"""What transformers' ``SmolLM3Config`` takes for keys that a ``config.json`` leaves out."""


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


def from_hf(config: HfConfig) -> NopeOptions | None:
    """Read which layers of a SmolLM3 model do not rotate; ``None`` where all do.

    As in transformers, ``no_rope_layers`` decides where it is given, and the interval where it is not; a config that
    has neither means every fourth layer.

    Raises:
        StageError: when the layers without rotation are not every n-th.
    """
    if config.get("model_type") != "smollm3":
        return None
    known = {**DEFAULTS, **config}
    layers, every, rotates = known["num_hidden_layers"], known["no_rope_layer_interval"], known.get("no_rope_layers")
    if rotates is None:
        return NopeOptions(every=every) if every <= layers else None
    if len(rotates) < layers:
        raise StageError(f"no_rope_layers in config.json speaks of {len(rotates)} layers and the model has {layers}")
    still = [index for index in range(layers) if not rotates[index]]
    if not still:
        return None
    first = still[0] + 1
    if still != list(range(first - 1, layers, first)):
        raise StageError(
            f"no_rope_layers in config.json leaves layers {', '.join(map(str, still))} without rotary embedding, which "
            f"are not every n-th of {layers}: model component 'nope' cannot say that"
        )
    return NopeOptions(every=first)


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
        from_hf=from_hf,
        after=("decoder",),
    )
