"""YaRN: a longer context by rescaled rotary frequencies (arXiv:2309.00071), as transformers computes it.

Comes after ``rope``, whose base it keeps; before or after ``gqa`` and ``nope``, whose layers without rotation it leaves
alone. ``to_hf`` also works on the ``config.json`` of a finished checkpoint, so that YaRN can be added on export.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from attrs import frozen

from smolrecipe import HfConfig, ModelComponent, ModelDraft, StageError, hookimpl, option

BETA_FAST = 32.0
BETA_SLOW = 1.0

DEFAULT_MAX_POSITIONS = 32768
"""What transformers' ``SmolLM3Config`` takes for a ``max_position_embeddings`` that a ``config.json`` leaves out."""


@frozen(kw_only=True)
class YarnOptions:
    """How far the context is stretched, and which frequencies give way."""

    factor: float = option(at_least=1, doc="how many times longer the context becomes")
    original_max_positions: int = option(at_least=1, doc="longest sequence that the model was trained on, in tokens")
    beta_fast: float = option(
        default=BETA_FAST,
        more_than=0,
        source="arXiv:2309.00071, section 3.2",
        doc="frequencies that turn at least this often over the original context stay as they are",
    )
    beta_slow: float = option(
        default=BETA_SLOW,
        more_than=0,
        source="arXiv:2309.00071, section 3.2",
        doc="frequencies that turn at most this often over the original context are divided by the factor",
    )
    attention_factor: float | None = option(
        default=None,
        more_than=0,
        source="arXiv:2309.00071, equation 22",
        doc="factor on cosines and sines; 0.1 ln(factor) + 1 where not given",
    )


def max_positions(options: YarnOptions) -> int:
    """The longest sequence after the stretch, in tokens."""
    return round(options.factor * options.original_max_positions)


def check(options: YarnOptions) -> Iterator[str]:
    """Yield what is wrong with the options taken together."""
    if options.beta_fast <= options.beta_slow:
        yield f"beta_fast ({options.beta_fast}) must be larger than beta_slow ({options.beta_slow})"


def apply(draft: ModelDraft, options: YarnOptions) -> None:
    """Rescale every rotary module that turns pairs of dimensions, and raise the bound on positions of all layers.

    Raises:
        StageError: without a decoder, where no layer rotates, for interleaved pairs, and where a component before
            has rescaled the frequencies already.
    """
    from smolrecipe_yarn.rotary import apply

    apply(draft, options)


def to_hf(config: HfConfig, options: YarnOptions) -> None:
    """Write ``rope_parameters`` and ``max_position_embeddings`` as transformers 5 names them.

    All four keys are written: a missing base falls back to the model class' own, a missing original length to the new
    one. The keys of older releases go, because transformers reads them before these.

    Raises:
        StageError: when the config names no base, or scales its frequencies in another way already.
    """
    rotary: dict[str, Any] = {
        "rope_type": "yarn",
        "rope_theta": _base(config),
        "factor": float(options.factor),
        "original_max_position_embeddings": options.original_max_positions,
    }
    if options.beta_fast != BETA_FAST:
        rotary["beta_fast"] = float(options.beta_fast)
    if options.beta_slow != BETA_SLOW:
        rotary["beta_slow"] = float(options.beta_slow)
    if options.attention_factor is not None:
        rotary["attention_factor"] = float(options.attention_factor)
    for key in ("rope_theta", "rope_scaling", "original_max_position_embeddings"):
        config.pop(key, None)
    config["rope_parameters"] = rotary
    config["max_position_embeddings"] = max_positions(options)


def from_hf(config: HfConfig) -> YarnOptions | None:
    """Read how far the context of a SmolLM3 model is stretched; ``None`` for one that YaRN does not stretch.

    Keys are looked for where transformers looks for them and in its order.

    Raises:
        StageError: for settings that this component does not have, and where the bound on positions is not the
            stretched one: then something was left out, most often ``original_max_position_embeddings``, without which
            transformers stretches the new bound.
    """
    source = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
    rotary: HfConfig = config.get(source) or {}
    if config.get("model_type") != "smollm3" or rotary.get("rope_type", rotary.get("type")) != "yarn":
        return None
    for key, meant in (("mscale", None), ("mscale_all_dim", None), ("truncate", True)):
        if rotary.get(key, meant) != meant:
            raise StageError(
                f"{key} in config.json ({source}) is {rotary[key]}: model component 'yarn' has no such option"
            )
    factor = rotary.get("factor")
    if factor is None:
        raise StageError(f"factor is missing in config.json ({source}): YaRN needs it")
    bound = {"max_position_embeddings": DEFAULT_MAX_POSITIONS, **config}["max_position_embeddings"]
    original = {"original_max_position_embeddings": bound, **rotary, **config}["original_max_position_embeddings"]
    options = YarnOptions(
        factor=float(factor),
        original_max_positions=original,
        beta_fast=float(rotary.get("beta_fast") or BETA_FAST),
        beta_slow=float(rotary.get("beta_slow") or BETA_SLOW),
        attention_factor=rotary.get("attention_factor"),
    )
    if bound != max_positions(options):
        raise StageError(
            f"max_position_embeddings in config.json is {bound}, and factor {factor} times "
            f"original_max_position_embeddings {original} makes {max_positions(options)}: give all three, in accord"
        )
    return options


def _base(config: Mapping[str, Any]) -> float:
    """The base of the frequencies, looked for where transformers looks for it and in its order."""
    parameters = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind not in ("default", "yarn"):
        raise StageError(
            f"model component 'yarn' cannot rescale a model whose config scales its rotary frequencies by '{kind}'"
        )
    base = parameters.get("rope_theta", config.get("rope_theta"))
    if base is None:
        raise StageError(
            "model component 'yarn' finds no rope_theta in the config: list 'rope' before it, or, on export, "
            "add rope_theta to the checkpoint's config.json"
        )
    return float(base)


@hookimpl
def smolrecipe_model_components() -> Iterable[ModelComponent]:
    """Offer ``yarn``."""
    yield ModelComponent(
        name="yarn",
        summary="a longer context by rescaled rotary frequencies",
        source="arXiv:2309.00071",
        options=YarnOptions,
        check=check,
        apply=apply,
        to_hf=to_hf,
        from_hf=from_hf,
        after=("decoder", "rope"),
        max_positions=max_positions,
        example={"factor": 2.0, "original_max_positions": 4096},
    )
