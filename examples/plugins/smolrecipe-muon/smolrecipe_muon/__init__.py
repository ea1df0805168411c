"""Muon for the matrices of hidden layers, AdamW for everything else: one optimizer for a recipe."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from attrs import frozen

from smolrecipe import Optimizer, ParameterGroup, hookimpl, option

EMBEDDINGS = ("tok_embeddings", "embed_tokens", "lm_head")
"""Input and output embeddings, tied or not, in torchtitan's and in Hugging Face's names."""


@frozen(kw_only=True)
class MuonOptions:
    """The hyper-parameters of both algorithms."""

    lr: float = option(more_than=0, doc="peak learning rate, which the schedule multiplies; of both algorithms")
    adamw_lr: float | None = option(
        default=None, more_than=0, doc="peak learning rate of what AdamW trains; 'lr' where not given"
    )
    weight_decay: float = option(
        default=0.1, at_least=0, source="torch.optim.Muon", doc="decoupled weight decay, per step times lr"
    )
    momentum: float = option(default=0.95, at_least=0, source="torch.optim.Muon", doc="of the gradient's average")
    nesterov: bool = option(default=True, source="torch.optim.Muon", doc="whether the step looks ahead")
    newton_schulz_steps: int = option(
        default=5, at_least=1, at_most=99, source="torch.optim.Muon", doc="iterations of the orthogonalisation"
    )
    scale: Literal["match_rms_adamw", "original", "spectral_unclamped"] = option(
        default="match_rms_adamw",
        source="arXiv:2502.16982, section 2.2",
        doc="how the rate follows a matrix' shape; match_rms_adamw: updates as large as AdamW's, so that lr is AdamW's",
    )
    betas: tuple[float, ...] = option(
        default=(0.9, 0.95), source="SmolLM3 stage1_8T.yaml", doc="AdamW's decay rates of the two moments, two numbers"
    )
    eps: float = option(default=1e-8, more_than=0, source="SmolLM3 stage1_8T.yaml", doc="in AdamW's denominator")
    adamw_for: tuple[str, ...] = option(
        default=(*EMBEDDINGS, "norm", r"\.bias$"),
        source="kellerjordan.github.io/posts/muon",
        doc="regular expressions found anywhere in a parameter's name: what matches one is trained by AdamW",
    )
    no_decay: tuple[str, ...] = option(
        default=EMBEDDINGS,
        source="SmolLM3 stage1_8T.yaml, weight_decay_exclude_named_params",
        doc="regular expressions found anywhere in a parameter's name: what AdamW trains of it is not decayed",
    )


def check(options: MuonOptions) -> Iterator[str]:
    """Yield what is wrong with the options taken together."""
    if len(options.betas) != 2 or not all(0 <= beta < 1 for beta in options.betas):
        yield f"betas must be two numbers of at least 0 and below 1, not {list(options.betas)}"
    if options.momentum >= 1:
        yield f"momentum must be below 1, not {options.momentum}"
    for key in ("adamw_for", "no_decay"):
        for pattern in getattr(options, key):
            try:
                re.compile(pattern)
            except re.error as error:
                yield f"{key}: '{pattern}' is not a regular expression: {error}"


def factory(options: MuonOptions) -> Any:
    """The class that runs both algorithms, each on the groups that name it."""
    from smolrecipe_muon.optimizer import MuonWithAdamW

    return MuonWithAdamW


def groups(options: MuonOptions) -> list[ParameterGroup]:
    """What AdamW trains, first what is not decayed; then everything else, for Muon."""
    adamw = {
        "algorithm": "adamw",
        "lr": options.lr if options.adamw_lr is None else options.adamw_lr,
        "betas": tuple(options.betas),
        "eps": options.eps,
        "weight_decay": options.weight_decay,
    }
    muon = {
        "algorithm": "muon",
        "lr": options.lr,
        "weight_decay": options.weight_decay,
        "momentum": options.momentum,
        "nesterov": options.nesterov,
        "ns_steps": options.newton_schulz_steps,
        "adjust_lr_fn": options.scale,
    }
    found = []
    if options.adamw_for and options.no_decay:
        both = f"(?={_anywhere(options.adamw_for)}){_anywhere(options.no_decay)}"
        found.append(ParameterGroup(pattern=f"^{both}", settings=adamw | {"weight_decay": 0.0}))
    if options.adamw_for:
        found.append(ParameterGroup(pattern=_anywhere(options.adamw_for), settings=adamw))
    return [*found, ParameterGroup(pattern=".*", settings=muon)]


def _anywhere(patterns: Iterable[str]) -> str:
    """One pattern that spans a whole name in which one of the patterns is found."""
    return f".*(?:{'|'.join(f'(?:{pattern})' for pattern in patterns)}).*"


@hookimpl
def smolrecipe_optimizers() -> Iterable[Optimizer]:
    """Offer ``muon``."""
    yield Optimizer(
        name="muon",
        summary="Muon for hidden matrices, AdamW for embeddings, head and norms",
        source="kellerjordan.github.io/posts/muon; arXiv:2502.16982",
        options=MuonOptions,
        check=check,
        factory=factory,
        groups=groups,
        example={"lr": 4.0e-3},
    )
