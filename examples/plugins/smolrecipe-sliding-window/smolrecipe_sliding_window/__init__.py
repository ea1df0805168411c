"""Sliding-window attention in the layers that rotate; the ones that do not (NoPE) go on seeing everything.

It narrows the attention that the components before it have chosen, so documents stay apart where they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from attrs import frozen

from smolrecipe import HfConfig, ModelComponent, ModelDraft, StageError, hookimpl, option


@frozen(kw_only=True)
class SlidingWindowOptions:
    """How far the layers that rotate see."""

    window: int = option(
        at_least=1,
        source="transformers, sliding_window",
        doc="tokens that a query sees in a layer that rotates, itself included",
    )


def check_draft(options: SlidingWindowOptions, draft: ModelDraft) -> Iterator[str]:
    """Yield why the window cannot be part of what the draft is built for."""
    if draft.device == "cuda" and draft.context_parallel > 1:
        yield (
            "model component 'sliding_window' cannot split a sequence over "
            f"{draft.context_parallel} GPUs: FlexAttention's one mask for all layers is split there; use "
            "context_parallel: 1"
        )


def apply(draft: ModelDraft, options: SlidingWindowOptions) -> None:
    """Narrow the attention of every layer that rotates.

    Raises:
        StageError: without a decoder, where no layer rotates, where a layer has no inner attention to narrow or a
            window already, and where the draft is for more GPUs than a window can be shared by.
    """
    from smolrecipe_sliding_window.narrowing import apply

    apply(draft, options)


def to_hf(config: HfConfig, options: SlidingWindowOptions) -> None:
    """Write the window and, layer by layer, who has it: left to itself, transformers gives it to the others.

    Raises:
        StageError: when the config does not say how many layers there are.
    """
    if "num_hidden_layers" not in config:
        raise StageError(
            "model component 'sliding_window' finds no num_hidden_layers in the config to list the layers of"
        )
    rotates = config.get("no_rope_layers") or [1] * config["num_hidden_layers"]
    config["use_sliding_window"] = True
    config["sliding_window"] = options.window
    config["layer_types"] = ["sliding_attention" if turns else "full_attention" for turns in rotates]


def from_hf(config: HfConfig) -> SlidingWindowOptions | None:
    """Read the window of a SmolLM3 model; ``None`` where no layer has one.

    Raises:
        StageError: when it is not the layers that rotate that have the window.
    """
    kinds: list[str] = config.get("layer_types") or []
    if config.get("model_type") != "smollm3" or "sliding_attention" not in kinds:
        return None
    if not config.get("use_sliding_window") or config.get("sliding_window") is None:
        return None
    rotates = config.get("no_rope_layers") or [1] * len(kinds)
    other = [
        index
        for index, (kind, turns) in enumerate(zip(kinds, rotates, strict=False))
        if (kind == "sliding_attention") != bool(turns)
    ]
    if other:
        raise StageError(
            f"layer_types and no_rope_layers in config.json disagree in layers {', '.join(map(str, other))}: model "
            "component 'sliding_window' gives a window to the layers that rotate and to no other"
        )
    return SlidingWindowOptions(window=config["sliding_window"])


@hookimpl
def smolrecipe_model_components() -> Iterable[ModelComponent]:
    """Offer ``sliding_window``."""
    yield ModelComponent(
        name="sliding_window",
        summary="layers that rotate see a window, layers that do not see everything",
        source="arXiv:2501.18795, section 4",
        options=SlidingWindowOptions,
        apply=apply,
        to_hf=to_hf,
        from_hf=from_hf,
        # What it narrows, and what decides which layers rotate, has to be there.
        after=("decoder", "docmask", "nope", "rope", "yarn"),
        check_draft=check_draft,
        example={"window": 16},
    )
