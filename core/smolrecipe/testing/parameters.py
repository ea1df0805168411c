"""SmolLM3's parameters by the names that both engines give them, and a tiny set of them for an optimizer to train."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch  # noqa: TID253
from torch import Tensor, nn  # noqa: TID253

from smolrecipe.components import Optimizer, ParameterGroup
from smolrecipe.testing.contract import broken

LAYERS = 36
"""SmolLM3 3B's."""

OUTER = {
    "tok_embeddings.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "lm_head.weight": "lm_head.weight",
}
"""torchtitan's name -> Hugging Face's, outside of the layers; without ``lm_head.weight`` where embeddings are tied."""

IN_A_LAYER = {
    "attention_norm.weight": "input_layernorm.weight",
    "attention.qkv_linear.wq.weight": "self_attn.q_proj.weight",
    "attention.qkv_linear.wk.weight": "self_attn.k_proj.weight",
    "attention.qkv_linear.wv.weight": "self_attn.v_proj.weight",
    "attention.wo.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "feed_forward.w1.weight": "mlp.gate_proj.weight",
    "feed_forward.w3.weight": "mlp.up_proj.weight",
    "feed_forward.w2.weight": "mlp.down_proj.weight",
}
"""The same within layer i: after ``layers.i.`` in torchtitan, after ``model.layers.i.`` in Hugging Face."""


def names(layers: int = LAYERS) -> dict[str, str]:
    """torchtitan's name -> Hugging Face's, of every parameter of a SmolLM3 with so many layers."""
    return OUTER | {
        f"layers.{layer}.{titan}": f"model.layers.{layer}.{hugging_face}"
        for layer in range(layers)
        for titan, hugging_face in IN_A_LAYER.items()
    }


_HIDDEN, _VOCABULARY, _INNER, _KV = 5, 16, 10, 3
_SHAPES = {
    r"tok_embeddings|lm_head": (_VOCABULARY, _HIDDEN),
    r"norm": (_HIDDEN,),
    r"\.w[kv]\.": (_KV, _HIDDEN),
    r"\.w[13]\.": (_INNER, _HIDDEN),
    r"\.w2\.": (_HIDDEN, _INNER),
    r"\.w[qo]\.": (_HIDDEN, _HIDDEN),
}
"""Two devices cannot share a width of 5 evenly, as many published widths cannot be shared among many."""


def tiny_weights() -> dict[str, Tensor]:
    """The weights of a one-layer SmolLM3 under torchtitan's names, float32, the same in every call.

    Small, as trained weights are, norms too: so that float32 shows steps of any usual learning rate.
    """
    generator = torch.Generator().manual_seed(0)
    return {
        name: 0.05 * torch.randn(shape, generator=generator)
        for name in names(layers=1)
        for shape in [next(shape for pattern, shape in _SHAPES.items() if re.search(pattern, name))]
    }


def group_of(name: str, groups: Sequence[ParameterGroup]) -> int | None:
    """The index of the first group whose pattern is found anywhere in the name, which is how engines look for it."""
    for index, group in enumerate(groups):
        try:
            if re.search(group.pattern, name):
                return index
        except re.error as error:
            broken(f"'{group.pattern}' is not a regular expression: {error}")
    return None


def settings_by_group(
    component: Optimizer, options: Any, parameters: Mapping[str, nn.Parameter], named: bool = True
) -> list[dict[str, Any]]:
    """The parameters in the component's groups, as engines hand them to an optimizer; empty groups are left out.

    torchtitan adds the parameters' names (``param_names``), TRL does not.
    """
    groups = list(component.groups(options))
    members: list[list[str]] = [[] for _ in groups]
    for name in parameters:
        index = group_of(name, groups)
        if index is None:
            broken(f"optimizer '{component.name}' has no group for the parameter '{name}'")
        members[index].append(name)
    return [
        {"params": [parameters[name] for name in taken], **({"param_names": taken} if named else {}), **group.settings}
        for group, taken in zip(groups, members, strict=True)
        if taken
    ]


def built(component: Optimizer, options: Any, groups: Iterable[Mapping[str, Any]]) -> torch.optim.Optimizer:
    """The optimizer over groups of parameters.

    Raises:
        ContractError: when it cannot be built, or is none of torch's.
    """
    try:
        optimizer: Any = component.factory(options)([dict(group) for group in groups])
    except Exception as error:
        broken(
            f"what 'factory' of optimizer '{component.name}' returns cannot be called with its own groups "
            f"({type(error).__name__}: {error}): it takes torch's parameter groups, dictionaries with 'params' and "
            "the settings of 'groups'; torchtitan adds 'param_names'"
        )
    if not isinstance(optimizer, torch.optim.Optimizer):
        broken(
            f"what 'factory' of optimizer '{component.name}' returns makes a {type(optimizer).__name__}, which is no "
            "torch.optim.Optimizer: schedules and checkpoints take no other"
        )
    return optimizer
