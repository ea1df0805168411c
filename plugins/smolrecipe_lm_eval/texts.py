"""Texts as a task of lm-eval's own kind (rolling log-likelihood), and their perplexity per byte and per token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset  # noqa: TID253
from lm_eval.api.task import ConfigurableTask  # noqa: TID253
from lm_eval.tasks import TaskManager  # noqa: TID253
from transformers import PreTrainedModel, PreTrainedTokenizerBase  # noqa: TID253

from smolrecipe import Source, StageContext, StageError, Use
from smolrecipe_lm_eval.estimates import perplexities, record
from smolrecipe_lm_eval.harness import evaluate_tasks, language_model
from smolrecipe_lm_eval.options import EvaluateOptions

_TOKENS_AT_ONCE = 2**14
"""Of a batch, padding included: each has a logit for every token of the vocabulary, so that many long texts at once
would take more memory than there is."""


def read_texts(name: str, use: Use[Source], limit: int | None) -> list[str]:
    """The first ``limit`` texts of a source that have anything in them.

    Raises:
        StageError: when there are none, or a row is not a text.
    """
    texts = []
    for number, row in enumerate(use.component.read(use.options)):
        if not isinstance(row.get("text"), str):
            raise StageError(
                f"row {number} of source '{name}' ({use.name}) is no text: it needs 'text', and has "
                f"{', '.join(row) or 'nothing'}"
            )
        texts += [row["text"]] if row["text"] else []
        if len(texts) == limit:
            break
    if not texts:
        raise StageError(f"source '{name}' ({use.name}) has no texts")
    return texts


def run_texts(
    name: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Mapping[str, Sequence[str]],
    options: EvaluateOptions,
    context: StageContext,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Scores of the texts of every source, by name, and a line for each text: its log-likelihood, tokens and bytes.

    Raises:
        StageError: when the tokenizer has no token that texts could follow, or makes no token of a text.
    """
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise StageError(
            f"the tokenizer of '{name}' names neither bos_token nor eos_token, one of which a text has to follow"
        )
    # A text's own tokens are what is measured, so the tokenizer adds none; lm-eval puts one before them as context.
    lm = language_model(model, tokenizer, options.batch_size, add_bos_token=False)
    results: dict[str, Any] = {}
    lines: list[dict[str, Any]] = []
    for task_name, of_task in texts.items():
        encoded = [lm.tok_encode(text) for text in of_task]
        if empty := [number for number, tokens in enumerate(encoded) if not tokens]:
            raise StageError(f"the tokenizer of '{name}' makes no token at all of text {empty[0]} of '{task_name}'")
        longest = min(max(map(len, encoded)), lm.max_length)
        lm.batch_size_per_gpu = max(1, min(options.batch_size, _TOKENS_AT_ONCE // longest))
        if unknown := sum(tokens.count(tokenizer.unk_token_id) for tokens in encoded if tokenizer.unk_token):
            context.say(
                f"{name}: {unknown} tokens of '{task_name}' are the tokenizer's unknown one, which stands for any "
                "text: its perplexity is no measure beside that of another tokenizer"
            )
        output = evaluate_tasks(
            lm, [_task(task_name, of_task)], options, task_manager=TaskManager(include_defaults=False), log_samples=True
        )
        found = sorted(output["samples"][task_name], key=lambda sample: sample["doc_id"])
        of_this = [
            {
                "task": task_name,
                "text": text,
                "loglikelihood": float(sample["filtered_resps"][0]),
                "tokens": len(tokens),
                "bytes": len(text.encode()),
            }
            for text, tokens, sample in zip(of_task, encoded, found, strict=True)
        ]
        lines += of_this
        for suffix, (metric, value, error) in perplexities(of_this).items():
            results[task_name + suffix] = record(metric, value, error, len(of_this), better=False)
    return results, lines


def _task(name: str, texts: Sequence[str]) -> ConfigurableTask:
    documents = Dataset.from_list([{"text": text} for text in texts])
    return ConfigurableTask(
        config={
            "task": name,
            "custom_dataset": lambda **_: {"test": documents},
            "test_split": "test",
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": _text,
            "num_fewshot": 0,
            "metric_list": [{"metric": "bits_per_byte"}],
            "metadata": {"version": 1.0},
        }
    )


def _text(doc: Mapping[str, str]) -> str:
    return doc["text"]
