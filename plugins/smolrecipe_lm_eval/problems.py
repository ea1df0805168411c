"""Problem rows of a source as a task of lm-eval's own kind, so that it does generating and scoring."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from datasets import Dataset  # noqa: TID253
from lm_eval.api.task import ConfigurableTask  # noqa: TID253
from lm_eval.tasks import TaskManager  # noqa: TID253
from transformers import PreTrainedModel, PreTrainedTokenizerBase  # noqa: TID253

from smolrecipe import Source, StageError, Use, untrusted
from smolrecipe.checkpoint import LONGEST_SECONDS, TEMPLATE_GIB
from smolrecipe_lm_eval.harness import evaluate_tasks, language_model, think_end
from smolrecipe_lm_eval.options import EvaluateOptions

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


def run_problems(
    name: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    options: EvaluateOptions,
) -> dict[str, Any]:
    """lm-eval's output for the problems of every source, answers too.

    Raises:
        StageError: when the tokenizer cannot end an answer, or prompts are longer than the model allows.
    """
    if tokenizer.eos_token is None:
        raise StageError(f"the tokenizer of '{name}' names no eos_token, which ends an answer")
    # The chat template writes whatever begins a sequence, so the tokenizer must not.
    end = think_end(tokenizer, options.think_end)
    lm = language_model(model, tokenizer, options.batch_size, add_bos_token=False, think_end_token=end)
    tasks = []
    for task_name, of_task in rows.items():
        chat = options.problem_prompts == "chat"
        rendered = prompts(of_task, tokenizer, name) if chat else plain_prompts(of_task)
        lengths = [len(lm.tok_encode(prompt)) for prompt in rendered]
        longest = max(lengths)
        if not min(lengths):
            raise StageError(f"the prompt of row {lengths.index(0)} of '{task_name}' is no token at all for '{name}'")
        if longest + options.max_new_tokens > lm.max_length:  # lm-eval would cut the prompt's start off
            raise StageError(
                f"'{name}' takes {lm.max_length} tokens, but '{task_name}' has prompts of {longest} and "
                f"'max_new_tokens' is {options.max_new_tokens}"
            )
        ends = [tokenizer.eos_token, *options.stop]
        tasks.append(task(task_name, of_task, rendered, ends, options.max_new_tokens))
    return evaluate_tasks(lm, tasks, options, task_manager=TaskManager(include_defaults=False), log_samples=True)


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
