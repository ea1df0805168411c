"""Problem rows of a source as a task of lm-eval's own kind, so that it does prompting, generating and scoring."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from datasets import Dataset  # noqa: TID253
from lm_eval.api.task import ConfigurableTask  # noqa: TID253
from transformers import PreTrainedTokenizerBase  # noqa: TID253

from smolrecipe import Source, StageError, Use, untrusted
from smolrecipe.checkpoint import LONGEST_SECONDS, TEMPLATE_GIB

METRIC = "exact_match"


def read(name: str, use: Use[Source], limit: int | None) -> list[Mapping[str, Any]]:
    """The first ``limit`` problems of a source.

    Raises:
        StageError: when there are none, or a row is not a problem.
    """
    rows = list(islice(use.component.read(use.options), limit))
    if not rows:
        raise StageError(f"source '{name}' ({use.name}) has no problems")
    for number, row in enumerate(rows):
        if not isinstance(row.get("answer"), str) or not row.get("messages"):
            raise StageError(
                f"row {number} of source '{name}' ({use.name}) is no problem: it needs 'messages' and a text 'answer', "
                f"and has {', '.join(row) or 'nothing'}"
            )
    return rows


def prompts(rows: Iterable[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, model: str) -> list[str]:
    """Each problem's messages through the tokenizer's chat template, with the row's own ``chat_template_kwargs``.

    A keyword that is ``None`` is left out: tables fill missing keys with it, and SmolLM3's template reads
    ``enable_thinking=None`` as /no_think.

    Raises:
        StageError: when the model has no chat template, or it does not render a row.
    """
    if not tokenizer.chat_template:
        raise StageError(f"the model of '{model}' has no chat template, which problems are prompted through")
    rendered = []
    for number, row in enumerate(rows):
        given = row.get("chat_template_kwargs") or {}
        keywords = {key: value for key, value in given.items() if value is not None}
        what = f"the chat template of '{model}' does not render row {number}"
        with untrusted(what, seconds=LONGEST_SECONDS, gib=TEMPLATE_GIB):
            rendered.append(
                str(
                    tokenizer.apply_chat_template(
                        list(row["messages"]), tokenize=False, add_generation_prompt=True, **keywords
                    )
                )
            )
    return rendered


def plain_prompts(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The text of each problem's messages, one behind the other, as it stands."""
    return ["\n".join(str(message["content"]) for message in row["messages"]) for row in rows]


def task(
    name: str, rows: Sequence[Mapping[str, Any]], rendered: Sequence[str], ends: Sequence[str], max_new_tokens: int
) -> ConfigurableTask:
    """An lm-eval task: continue each rendered prompt greedily up to one of ``ends``; right if it is the answer, spaces
    around it aside.
    """
    documents = Dataset.from_list(
        [{"prompt": prompt, "answer": str(row["answer"]).strip()} for prompt, row in zip(rendered, rows, strict=True)]
    )
    return ConfigurableTask(
        config={
            "task": name,
            "custom_dataset": lambda **_: {"test": documents},
            "test_split": "test",
            "output_type": "generate_until",
            "doc_to_text": _prompt,
            "doc_to_target": _answer,
            "num_fewshot": 0,
            "generation_kwargs": {"until": list(ends), "max_gen_toks": max_new_tokens, "do_sample": False},
            "filter_list": [
                {
                    "name": "answer",
                    "filter": [{"function": "custom", "filter_fn": _strip}, {"function": "take_first"}],
                }
            ],
            "metric_list": [{"metric": METRIC, "aggregation": "mean", "higher_is_better": True}],
            "metadata": {"version": 1.0},
        }
    )


def _prompt(doc: Mapping[str, str]) -> str:
    return doc["prompt"]


def _answer(doc: Mapping[str, str]) -> str:
    return doc["answer"]


def _strip(responses: Iterable[Iterable[str]], docs: object) -> list[list[str]]:
    return [[response.strip() for response in of_one] for of_one in responses]
