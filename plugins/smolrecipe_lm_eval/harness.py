"""Calling lm-eval: a loaded model as it wants it, and its evaluation without any cache."""

from __future__ import annotations

from typing import Any

from lm_eval import simple_evaluate  # noqa: TID253
from lm_eval.models.huggingface import HFLM  # noqa: TID253
from transformers import PreTrainedModel, PreTrainedTokenizerBase  # noqa: TID253

from smolrecipe import StageError
from smolrecipe_lm_eval.options import EvaluateOptions


def language_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int, **more: Any) -> HFLM:
    """The model as lm-eval calls it."""
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, **more)


def think_end(tokenizer: PreTrainedTokenizerBase, text: str) -> int | str:
    """The number of the token that ends a reasoning trace, where it is one token: decoding drops special tokens."""
    if text in tokenizer.get_vocab():
        return int(tokenizer.get_vocab()[text])
    return text


def evaluate_tasks(lm: HFLM, tasks: list[Any], options: EvaluateOptions, **more: Any) -> dict[str, Any]:
    """What lm-eval finds, its answers too: each is asked of the model at hand, none read from an earlier evaluation.

    Raises:
        StageError: when it returns nothing.
    """
    output = simple_evaluate(
        lm,
        tasks=tasks,
        use_cache=None,
        cache_requests=False,
        random_seed=options.seed,
        numpy_random_seed=options.seed,
        torch_random_seed=options.seed,
        fewshot_random_seed=options.seed,
        **more,
    )
    if output is None:
        raise StageError("lm-eval returned no results")
    return dict(output)
