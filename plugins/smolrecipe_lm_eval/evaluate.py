"""The ``evaluate`` stage: all models in one process, each loaded once."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch  # noqa: TID253
from lm_eval import simple_evaluate  # noqa: TID253
from lm_eval.models.huggingface import HFLM  # noqa: TID253
from lm_eval.tasks import TaskManager  # noqa: TID253
from transformers import PreTrainedModel, PreTrainedTokenizerBase  # noqa: TID253

from smolrecipe import Artifact, Measure, StageContext, StageError, near_miss
from smolrecipe_lm_eval import EvaluateOptions, problems
from smolrecipe_lm_eval.models import load
from smolrecipe_lm_eval.scores import Score, results_by_task, scores_of

_ANY_CONVERSATION = [{"messages": [{"role": "user", "content": "Hello"}]}]

Rows = Mapping[str, list[Mapping[str, Any]]]


def evaluate(options: EvaluateOptions, context: StageContext) -> Artifact:
    """Score every model on every problem source and task.

    Writes ``results/<model>.json`` (all metrics) and ``samples/<model>.jsonl`` (every answer to a problem) as each
    model is done, and ``results.json`` at the end. A stage that was interrupted goes on with the next model: its folder
    belongs to these very models and options.

    Raises:
        StageError: for an unknown task, a model without chat template, prompts longer than a model allows.
    """
    rows = {name: problems.read(name, use, options.limit) for name, use in options.problems.items()}
    manager = _task_manager(options)
    for folder in ("results", "samples"):
        (context.folder / folder).mkdir(exist_ok=True)
    by_model: dict[str, dict[str, Any]] = {}
    for number, ref in enumerate(options.models, start=1):
        name = str(ref)
        file = context.folder / "results" / f"{name}.json"
        if file.is_file():
            by_model[name] = json.loads(file.read_text(encoding="utf-8"))
            context.say(f"{name}: evaluated before the interruption")
        else:
            by_model[name] = _evaluate_model(name, context.input(ref), rows, manager, options, context)
            _write(file, by_model[name])
        context.progress(number, len(options.models))
    scores = {name: scores_of(results) for name, results in by_model.items()}
    _write(
        context.folder / "results.json",
        {
            "lm_eval": version("lm_eval"),
            "models": by_model,
            "scores": {name: _plain(of) for name, of in scores.items()},
        },
    )
    return Artifact(measures=_measures(scores), summary={"scores": {name: _plain(of) for name, of in scores.items()}})


def _task_manager(options: EvaluateOptions) -> TaskManager:
    """lm-eval's registry; read only when its tasks are wanted, since that takes it eight seconds."""
    manager = TaskManager(include_defaults=bool(options.tasks))
    for name in options.tasks:
        if name not in manager.all_tasks:
            raise StageError(f"lm-eval has no task '{name}'{near_miss(name, manager.all_tasks)}")
    return manager


def _evaluate_model(
    name: str, folder: Path, rows: Rows, manager: TaskManager, options: EvaluateOptions, context: StageContext
) -> dict[str, Any]:
    model, tokenizer = load(folder, "auto" if options.precision == "model" else getattr(torch, options.precision))
    model.to(options.device)
    results: dict[str, Any] = {}
    try:
        if rows:
            output = _run_problems(name, model, tokenizer, rows, options)
            _write_samples(context.folder / "samples" / f"{name}.jsonl", output["samples"])
            results |= results_by_task(output)
        if options.tasks:
            if options.apply_chat_template:
                problems.prompts(_ANY_CONVERSATION, tokenizer, name)  # lm-eval renders without a bound
            lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=options.batch_size)
            results |= results_by_task(
                _simple_evaluate(
                    lm,
                    list(options.tasks),
                    options,
                    task_manager=manager,
                    num_fewshot=options.num_fewshot,
                    apply_chat_template=options.apply_chat_template,
                    system_instruction=options.system_instruction,
                    limit=options.limit,
                    log_samples=False,
                )
            )
    finally:
        del model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    for task, score in scores_of(results).items():
        context.say(f"{name}: {task} {score}")
    return results


def _run_problems(
    name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Rows, options: EvaluateOptions
) -> dict[str, Any]:
    if tokenizer.eos_token is None:
        raise StageError(f"the tokenizer of '{name}' names no eos_token, which ends an answer")
    # The chat template writes whatever begins a sequence, so the tokenizer must not.
    lm = HFLM(
        pretrained=model,
        tokenizer=tokenizer,
        batch_size=options.batch_size,
        add_bos_token=False,
        think_end_token=_think_end(tokenizer, options.think_end),
    )
    tasks = []
    for task_name, of_task in rows.items():
        chat = options.problem_prompts == "chat"
        rendered = problems.prompts(of_task, tokenizer, name) if chat else problems.plain_prompts(of_task)
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
        tasks.append(problems.task(task_name, of_task, rendered, ends, options.max_new_tokens))
    return _simple_evaluate(lm, tasks, options, task_manager=TaskManager(include_defaults=False), log_samples=True)


def _think_end(tokenizer: PreTrainedTokenizerBase, text: str) -> int | str:
    """The number of the token that ends a reasoning trace, where it is one token: decoding drops special tokens."""
    if text in tokenizer.get_vocab():
        return int(tokenizer.get_vocab()[text])
    return text


def _simple_evaluate(lm: HFLM, tasks: list[Any], options: EvaluateOptions, **more: Any) -> dict[str, Any]:
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


def _measures(scores: Mapping[str, Mapping[str, Score]]) -> tuple[Measure, ...]:
    """What changed from each model to the next; the plain scores where there is only one."""
    if len(scores) == 1:
        ((model, of_model),) = scores.items()
        return tuple(
            Measure(name=f"{task}: {model}", after=score.value, better=score.better, samples=score.samples)
            for task, score in of_model.items()
        )
    return tuple(
        Measure(
            name=f"{task}: {before} -> {after}",
            before=scores[before][task].value,
            after=scores[after][task].value,
            better=scores[after][task].better,
            samples=scores[after][task].samples,
        )
        for before, after in pairwise(scores)
        for task in scores[after]
    )


def _plain(scores: Mapping[str, Score]) -> dict[str, Any]:
    return {task: score.plain() for task, score in scores.items()}


def _write(file: Path, content: Any) -> None:
    part = file.with_suffix(".part")
    part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(file)


def _write_samples(file: Path, samples: Mapping[str, list[dict[str, Any]]]) -> None:
    with file.open("w", encoding="utf-8") as opened:
        for task, of_task in samples.items():
            for sample in of_task:
                line = {
                    "task": task,
                    "prompt": sample["arguments"][0][0],
                    "answer": sample["target"],
                    "given": sample["filtered_resps"][0],
                    "right": bool(sample[problems.METRIC]),
                }
                opened.write(json.dumps(line, ensure_ascii=False) + "\n")
