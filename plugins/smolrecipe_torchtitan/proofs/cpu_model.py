"""A recipe's model on the CPU in float32, with weights that are there already: what checks compute with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import attrs
import torch  # noqa: TID253
from torch import nn  # noqa: TID253

from smolrecipe import Model, ModelDraft, StageError
from smolrecipe_torchtitan.start import Shapes


def draft_on_cpu(model: Model, sequence_length: int) -> ModelDraft:
    """The decoder that the model's components draft for one CPU.

    Options that do not change what is computed (``identity=False``) take their defaults: a recipe for GPUs may choose
    attention kernels that a CPU does not have.

    Raises:
        StageError: when no component makes a decoder.
    """
    draft = ModelDraft(device="cpu", sequence_length=sequence_length)
    for use in model.components.values():
        use.component.apply(draft, _for_any_machine(use.options))
    if draft.decoder is None:
        raise StageError("no model component makes a decoder of this model")
    return draft


def _for_any_machine(options: Any) -> Any:
    """The options with the defaults of those that do not change what is computed."""
    free = {}
    for field in attrs.fields(type(options)):
        if field.metadata.get("identity") is False and field.default is not attrs.NOTHING:
            default = field.default
            free[field.alias] = default.factory() if isinstance(default, attrs.Factory) else default
    return attrs.evolve(options, **free)


def shapes_of(draft: ModelDraft) -> Shapes:
    """The shapes of all parameters, without making any."""
    with torch.device("meta"):
        decoder = draft.decoder.build()
    return {name: tuple(value.shape) for name, value in decoder.state_dict().items()}


def build_with(draft: ModelDraft, weights: Mapping[str, torch.Tensor]) -> Any:
    """The drafted decoder on these very tensors, by torchtitan's names; none of them is copied.

    Tied embeddings may be given once. Layers with equal rotary settings share one table of cosines and sines.

    Raises:
        StageError: when the decoder needs something that is not among the weights.
    """
    with torch.device("meta"):
        decoder = draft.decoder.build()
    given = dict(weights)
    if draft.decoder.enable_weight_tying:
        given.setdefault("lm_head.weight", given["tok_embeddings.weight"])
    decoder.load_state_dict(given, strict=False, assign=True)
    set_rotary(decoder, [layer.attention.rope for layer in draft.decoder.layers])
    lacking = [name for name, tensor in _tensors(decoder) if tensor.is_meta]
    if lacking:
        raise StageError(f"a checkpoint does not hold all that the model computes with: {', '.join(lacking[:5])}")
    return decoder.requires_grad_(False).eval()


def set_rotary(decoder: Any, configs: list[Any]) -> None:
    """Give every layer the rotary module of its config; equal configs share one."""
    made: dict[Any, nn.Module] = {}
    for layer, config in zip(decoder.layers.values(), configs, strict=True):
        key = (type(config), *(getattr(config, field.name) for field in fields(config)))
        if key not in made:
            made[key] = config.build()
        layer.attention.rope = made[key]


def with_other_base(rope: Any, times: float) -> Any:
    """A rotary config whose base is so many times larger."""
    return replace(rope, theta=rope.theta * times)


def _tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]
