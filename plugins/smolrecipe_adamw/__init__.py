"""AdamW (arXiv:1711.05101), with embeddings kept out of weight decay as SmolLM3 did."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from attrs import frozen

from smolrecipe import Optimizer, ParameterGroup, hookimpl, option

EMBEDDINGS = ("tok_embeddings", "embed_tokens", "lm_head")
"""Input and output embeddings, tied or not, in torchtitan's and in Hugging Face's names."""


@frozen(kw_only=True)
class AdamWOptions:
    """The hyper-parameters of AdamW."""

    lr: float = option(more_than=0, doc="peak learning rate, which the schedule multiplies")
    betas: tuple[float, ...] = option(
        default=(0.9, 0.95), source="SmolLM3 stage1_8T.yaml", doc="decay rates of the two moments, two numbers"
    )
    eps: float = option(default=1e-8, more_than=0, source="SmolLM3 stage1_8T.yaml", doc="added to the denominator")
    weight_decay: float = option(
        default=0.1, at_least=0, source="SmolLM3 stage1_8T.yaml", doc="decoupled weight decay, per step times lr"
    )
    no_decay: tuple[str, ...] = option(
        default=EMBEDDINGS,
        source="SmolLM3 stage1_8T.yaml, weight_decay_exclude_named_params",
        doc=(
            "regular expressions found anywhere in a parameter's name: what matches one is not decayed. "
            "The default spares embeddings only: SmolLM3's norms were decayed"
        ),
    )
    fused: bool = option(
        default=True, identity=False, doc="torch's fused kernel, on CPU and CUDA; it agrees with the others to rounding"
    )


def check(options: AdamWOptions) -> Iterator[str]:
    """Yield what is wrong with the options."""
    if len(options.betas) != 2 or not all(0 <= beta < 1 for beta in options.betas):
        yield f"betas must be two numbers of at least 0 and below 1, not {list(options.betas)}"
    for pattern in options.no_decay:
        try:
            re.compile(pattern)
        except re.error as error:
            yield f"no_decay: '{pattern}' is not a regular expression: {error}"


def factory(options: AdamWOptions) -> Any:
    """The class ``torch.optim.AdamW``."""
    from torch.optim import AdamW

    return AdamW


def groups(options: AdamWOptions) -> list[ParameterGroup]:
    """Two groups with equal settings but for weight decay; one where nothing is spared."""
    settings = {
        "lr": options.lr,
        "betas": tuple(options.betas),
        "eps": options.eps,
        "weight_decay": options.weight_decay,
        "fused": options.fused,
    }
    everything = ParameterGroup(pattern=".*", settings=settings)
    if not options.no_decay:
        return [everything]
    # One pattern for all, because an engine may refuse a group that is empty: no model has all the default names. It
    # spans the whole name, so that it says the same whether an engine searches or matches.
    spared = "|".join(f"(?:{pattern})" for pattern in options.no_decay)
    return [ParameterGroup(pattern=f".*(?:{spared}).*", settings=settings | {"weight_decay": 0.0}), everything]


@hookimpl
def smolrecipe_optimizers() -> Iterable[Optimizer]:
    """Offer ``adamw``."""
    yield Optimizer(
        name="adamw",
        summary="AdamW, embeddings without weight decay",
        source="arXiv:1711.05101",
        options=AdamWOptions,
        check=check,
        factory=factory,
        groups=groups,
        example={"lr": 2.0e-4},
    )
