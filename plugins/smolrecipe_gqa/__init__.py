"""Grouped-query attention: several query heads share one key and value head.

Follows arXiv:2305.13245. Comes after ``decoder``; other components may come before or after it: what they set (rotary
modules, masks) is kept and resized to the new heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from attrs import frozen

from smolrecipe import HfConfig, ModelComponent, ModelDraft, StageError, hookimpl, option

DEFAULTS = {"hidden_size": 2048, "num_attention_heads": 16, "num_key_value_heads": 4}
"""What transformers' ``SmolLM3Config`` takes for keys that a ``config.json`` leaves out."""


@frozen(kw_only=True)
class GqaOptions:
    """The heads of every layer."""

    num_heads: int = option(at_least=1, doc="query heads of a layer")
    num_kv_heads: int = option(
        at_least=1, doc="key and value heads of a layer, each shared by num_heads / num_kv_heads query heads"
    )
    head_dim: int | None = option(
        default=None, at_least=2, doc="width of one head; hidden_size / num_heads where not given"
    )


def check(options: GqaOptions) -> Iterator[str]:
    """Yield what is wrong with the heads taken together."""
    if options.num_heads % options.num_kv_heads:
        yield (
            f"num_heads ({options.num_heads}) is not a multiple of num_kv_heads ({options.num_kv_heads}): "
            "each key and value head must serve the same number of query heads"
        )
    if options.head_dim is not None and options.head_dim % 2:
        yield f"head_dim ({options.head_dim}) is odd: rotary embeddings turn pairs of dimensions"


def apply(draft: ModelDraft, options: GqaOptions) -> None:
    """Give every layer's attention the heads of ``options``; initialisers, biases, masks and rotary modules stay.

    Raises:
        StageError: without a decoder, with attention that is not torchtitan's grouped-query attention with separate
            projections, and where the width is not divisible by the heads.
    """
    from smolrecipe_gqa.attention import apply

    apply(draft, options)


def to_hf(config: HfConfig, options: GqaOptions) -> None:
    """Write ``num_attention_heads``, ``num_key_value_heads`` and ``head_dim``.

    Raises:
        StageError: when ``head_dim`` is to follow from a ``hidden_size`` that the config does not have.
    """
    head_dim = options.head_dim
    if head_dim is None:
        if "hidden_size" not in config:
            raise StageError(
                "model component 'gqa' finds no hidden_size in the config to derive head_dim from: give it"
            )
        head_dim = config["hidden_size"] // options.num_heads
    config["num_attention_heads"] = options.num_heads
    config["num_key_value_heads"] = options.num_kv_heads
    config["head_dim"] = head_dim


def from_hf(config: HfConfig) -> GqaOptions | None:
    """Read the heads of a SmolLM3 model, as many key and value heads as query heads included.

    What the config leaves out means what transformers takes it for.
    """
    if config.get("model_type") != "smollm3":
        return None
    known: HfConfig = {**DEFAULTS, **config}
    heads, kv_heads, head_dim = known["num_attention_heads"], known["num_key_value_heads"], known.get("head_dim")
    return GqaOptions(
        num_heads=heads,
        num_kv_heads=heads if kv_heads is None else kv_heads,
        head_dim=known["hidden_size"] // heads if head_dim is None else head_dim,
    )


@hookimpl
def smolrecipe_model_components() -> Iterable[ModelComponent]:
    """Offer ``gqa``."""
    yield ModelComponent(
        name="gqa",
        summary="grouped-query attention: several query heads share one key and value head",
        source="arXiv:2305.13245",
        options=GqaOptions,
        check=check,
        apply=apply,
        to_hf=to_hf,
        from_hf=from_hf,
        after=("decoder",),
        example={"num_heads": 4, "num_kv_heads": 2},
    )
