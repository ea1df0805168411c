"""RULER as lm-eval has it, at one context length after the other."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import lm_eval.tasks  # noqa: TID253
import nltk
import numpy
import transformers  # noqa: TID253
from lm_eval.api.task import ConfigurableTask  # noqa: TID253
from lm_eval.models.huggingface import HFLM  # noqa: TID253
from lm_eval.tasks import TaskManager  # noqa: TID253
from transformers import PreTrainedModel, PreTrainedTokenizerBase  # noqa: TID253

from smolrecipe import StageContext, StageError, untrusted
from smolrecipe.checkpoint import LONGEST_SECONDS, TEMPLATE_GIB
from smolrecipe_lm_eval.estimates import MEAN_METRIC, mean_and_error, record
from smolrecipe_lm_eval.fitting import PatientTokenizer, chains_fit
from smolrecipe_lm_eval.harness import evaluate_tasks, language_model, think_end
from smolrecipe_lm_eval.options import EvaluateOptions, RulerOptions

_FOLDER = Path(lm_eval.tasks.__file__).parent / "ruler"
_PREFIXED = ("vt", "cwe", "fwe", "qa_squad", "qa_hotpot")
"""RULER's tasks that lm-eval calls ``ruler_<name>``."""

LONGEST_KEPT = 16_384
"""Characters of a prompt that is kept with its answer, so that it can be asked again; of a longer one, the end is."""

_MOST_CALLS = 5000
"""How often a task may count tokens: a few times for each of its 500 samples."""

MOST_OVER = 256
"""Tokens by which RULER's texts may reach over their length: it counts some of them without the beginning of the
answer, or without the answer. Models go so far beyond their positions as if there were more."""


def run_ruler(
    name: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    ruler: RulerOptions,
    options: EvaluateOptions,
    context: StageContext,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Scores by ``<task> @ <length>`` and their mean as ``ruler @ <length>``, and a line for each answer.

    Raises:
        StageError: when the tokenizer cannot write what is asked for, or a length is too short for a task's texts.
    """
    results: dict[str, Any] = {}
    lines: list[dict[str, Any]] = []
    for length in ruler.lengths:
        scores, errors, samples = [], [], 0
        for task_name in ruler.tasks:
            title = f"{task_name} @ {length}"
            task = _made(task_name, length, tokenizer, name, options)
            answers = _answers(title, task, model, tokenizer, name, ruler.batch_size, options, context)
            value, error = mean_and_error([answer["score"] for answer in answers])
            results[title] = record(MEAN_METRIC, value, error, len(answers), better=True)
            scores.append(value)
            errors.append(error)
            samples += len(answers)
            lines += answers
            context.say(f"{name}: {title} {value:.4f} ± {error:.4f} (n={len(answers)})")
        whole = sum(error**2 for error in errors) ** 0.5 / len(errors)  # of a mean of independent means
        results[f"ruler @ {length}"] = record(MEAN_METRIC, sum(scores) / len(scores), whole, samples, better=True)
    return results, lines


def _made(
    task_name: str, length: int, tokenizer: PreTrainedTokenizerBase, model: str, options: EvaluateOptions
) -> ConfigurableTask:
    """The task with its samples, which follow from the seed, the length and the tokenizer alone."""
    own = f"ruler_{task_name}" if task_name in _PREFIXED else task_name
    title = f"{task_name} @ {length}"
    patient = PatientTokenizer(tokenizer, calls=_MOST_CALLS + length // 20)
    # The tokenizer of a name is kept by that name, so each gets one of its own.
    metadata = {"tokenizer": f"{id(patient)} of {model}", "max_seq_lengths": [length]}
    sys.modules.pop("lm_eval.tasks.ruler.cwe_utils", None)  # it has a random generator of its own, which moves on
    random.seed(options.seed)
    numpy.random.seed(options.seed)
    manager = TaskManager(include_defaults=False, include_path=str(_FOLDER), metadata=metadata)
    if task_name == "vt" and not chains_fit(tokenizer, length):
        raise _no_room(task_name, title, model)
    with (
        Path(os.devnull).open("w") as nowhere,
        untrusted(f"lm-eval makes no texts for '{title}' with the tokenizer of '{model}'"),
        _given(patient, options.download),
        redirect_stdout(nowhere),  # a line for each length that it tries
    ):
        try:
            (task,) = manager.load([own])["tasks"].values()
        except Exception:
            if not patient.gave_up:
                raise
    if patient.gave_up or not all(task.test_docs()["outputs"]):  # without room for a word, it asks for none
        raise _no_room(task_name, title, model)
    _require_writable(task, title, tokenizer, model)
    return task


def _no_room(task_name: str, title: str, model: str) -> StageError:
    example = " (or its worked example longer than 500 tokens)" if task_name == "vt" else ""
    return StageError(
        f"'{title}' cannot be made with the tokenizer of '{model}': the task's shortest text is longer than that"
        f"{example}. Take longer contexts, or leave the task out of 'ruler.tasks'"
    )


@contextmanager
def _given(tokenizer: PatientTokenizer, download: bool) -> Iterator[None]:
    """Have lm-eval take this tokenizer, where it would load one by name and run code that lies beside it.

    Without ``download``, keep it from fetching what cuts essays into sentences: tasks without essays need none.
    """
    loads, fetches = transformers.AutoTokenizer.from_pretrained, nltk.download
    transformers.AutoTokenizer.from_pretrained = staticmethod(lambda *_, **__: tokenizer)
    if not download:
        nltk.download = lambda *_, **__: False
    try:
        yield
    finally:
        transformers.AutoTokenizer.from_pretrained, nltk.download = loads, fetches


def _require_writable(task: ConfigurableTask, title: str, tokenizer: PreTrainedTokenizerBase, model: str) -> None:
    """Refuse a tokenizer that cannot write the words which the first samples ask for."""
    for document in list(task.test_docs())[:20]:
        for word in document["outputs"]:
            written = tokenizer.decode(tokenizer(f" {word}", add_special_tokens=False)["input_ids"])
            if word.lower() not in written.lower():
                raise StageError(
                    f"'{title}' asks for {word!r}, which the tokenizer of '{model}' cannot write: it becomes "
                    f"{written.strip()!r}. Leave the task out of 'ruler.tasks'"
                )


def _answers(
    title: str,
    task: ConfigurableTask,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    batch_size: int,
    options: EvaluateOptions,
    context: StageContext,
) -> list[dict[str, Any]]:
    positions = int(model.config.max_position_embeddings)
    lm = language_model(
        model,
        tokenizer,
        batch_size,
        add_bos_token=False if options.apply_chat_template else None,  # the template writes it
        max_length=2**31,  # nothing is cut: that would take away the start, where the question stands
        think_end_token=think_end(tokenizer, options.think_end) if options.apply_chat_template else None,
        enable_thinking=options.enable_thinking,
    )
    longest = max(document["length"] for document in task.test_docs()) + _around(lm, name, options)
    if longest > positions + MOST_OVER:
        raise StageError(
            f"'{title}' has prompts and answers of {longest} tokens with the chat template of '{name}', which is made "
            f"for {positions}: take shorter contexts"
        )
    output = evaluate_tasks(
        lm,
        [task],
        options,
        apply_chat_template=options.apply_chat_template,
        system_instruction=options.system_instruction,
        limit=options.limit,
        log_samples=True,
    )
    ((_, samples),) = output["samples"].items()
    lines = []
    reached = 0
    for sample in sorted(samples, key=lambda sample: sample["doc_id"]):
        prompt, generation = sample["arguments"][0]
        tokens = len(lm.tok_encode(prompt)) + generation["max_gen_toks"]
        reached = max(reached, tokens)
        lines.append(
            {
                "task": title,
                "prompt": prompt if len(prompt) <= LONGEST_KEPT else None,
                "prompt_end": prompt[-200:],
                "words": list(sample["doc"]["outputs"]),
                "special_tokens": not options.apply_chat_template,
                "most_tokens": generation["max_gen_toks"],
                "given": sample["filtered_resps"][0],
                "score": float(sample[str(sample["doc"]["max_length"])]),
            }
        )
    if reached > positions:
        context.say(
            f"{name}: prompts and answers of '{title}' take up to {reached} positions, and the model was made for "
            f"{positions}; none is cut"
        )
    return lines


def _around(lm: HFLM, name: str, options: EvaluateOptions) -> int:
    """The tokens that the chat template puts around a question."""
    if not options.apply_chat_template:
        return 0
    system = [{"role": "system", "content": options.system_instruction}] if options.system_instruction else []
    with untrusted(f"the chat template of '{name}' does not render", seconds=LONGEST_SECONDS, gib=TEMPLATE_GIB):
        return len(lm.tok_encode(lm.apply_chat_template([*system, {"role": "user", "content": ""}])))
