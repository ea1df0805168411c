"""The options of the ``merge`` stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from attrs import frozen

from smolrecipe import StageRef, option

Setting = bool | float | list[float] | Mapping[str, float]
"""One value; a list of numbers that mergekit interpolates over the layers; or a value for each part of a tensor's name
(``{self_attn: 0.3, mlp: 0.7, "*": 0.5}``), of which the first that matches counts."""


@frozen(kw_only=True)
class MemberOptions:
    """A model that is merged."""

    from_: StageRef = option(needs="hf-model", doc="the stage whose model is merged, or 'stage@checkpoint'")
    weight: float | None = option(default=None, doc="its share in the merge, for methods with weights")
    parameters: Mapping[str, Setting] = option(
        factory=dict, doc="the method's other parameters for this model, for example density"
    )


@frozen(kw_only=True)
class MergeOptions:
    """The options of the ``merge`` stage."""

    method: str = option(default="linear", doc="the merge method: any that mergekit has registered")
    models: list[MemberOptions] = option(doc="the models to merge")
    base: StageRef = option(
        needs="hf-model",
        doc="the stage whose configuration, tokenizer and chat template the result has; methods that merge differences "
        "(ties, task_arithmetic, ...) take them from its weights",
    )
    parameters: Mapping[str, Setting] = option(factory=dict, doc="the method's parameters for the whole merge")
    normalize: bool | None = option(
        default=None, doc="divide by the sum of the weights; without it the method's own default holds"
    )
    out_dtype: Literal["bfloat16", "float16", "float32"] | None = option(
        default=None, doc="the result's dtype, rounded to once; without it that of the models, who must then agree"
    )
    seed: int = option(default=0, at_least=0, doc="for methods that drop parameters at random (dare_*, della_*)")
    defined_in: str = option(
        default="",
        doc="a Python module that registers the method when imported (mergekit.merge_methods.register), for methods of "
        "your own; the source of its package is part of the stage's digest",
    )
