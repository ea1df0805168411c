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
from attrs import frozen
from lm_eval.tasks import TaskManager  # noqa: TID253

from smolrecipe import Artifact, Measure, StageContext, StageError, near_miss
from smolrecipe.ready_model import load_ready_model
from smolrecipe_lm_eval import problems, samples
from smolrecipe_lm_eval.held_out import held_out_texts
from smolrecipe_lm_eval.named_tasks import run_named_tasks
from smolrecipe_lm_eval.options import EvaluateOptions
from smolrecipe_lm_eval.positions import require_positions
from smolrecipe_lm_eval.published_scores import plain_published, without_score
from smolrecipe_lm_eval.scores import Score, results_by_task, scores_of
from smolrecipe_lm_eval.texts import read_texts, run_texts


@frozen(kw_only=True)
class _Asked:
    """What every model is asked."""

    rows: Mapping[str, list[Mapping[str, Any]]]
    texts: Mapping[str, list[str]]
    manager: TaskManager | None


def evaluate(options: EvaluateOptions, context: StageContext) -> Artifact:
    """Score every model on every problem source, text source, RULER task and task of lm-eval's.

    Writes ``results/<model>.json`` (all metrics) and, as each model is done, ``samples/``, ``ruler/`` and
    ``texts/<model>.jsonl`` (every answer, and the log-likelihood of every text), and ``results.json`` at the end. A
    stage that was interrupted goes on with the next model: its folder belongs to these very models and options.

    Raises:
        StageError: for an unknown task, a model without chat template, prompts longer than a model allows.
    """
    texts = {name: read_texts(name, use, options.limit) for name, use in options.texts.items()}
    if options.held_out is not None:
        texts |= held_out_texts(options.held_out, options.limit, context)
    asked = _Asked(
        rows={name: problems.read(name, use, options.limit) for name, use in options.problems.items()},
        texts=texts,
        manager=_task_manager(options),
    )
    for ref in options.models:
        require_positions(str(ref), context.input(ref), options)
    (context.folder / "results").mkdir(exist_ok=True)
    by_model: dict[str, dict[str, Any]] = {}
    for number, ref in enumerate(options.models, start=1):
        name = str(ref)
        file = context.folder / "results" / f"{name}.json"
        if file.is_file():
            by_model[name] = json.loads(file.read_text(encoding="utf-8"))
            context.say(f"{name}: evaluated before the interruption")
        else:
            by_model[name] = _evaluate_model(name, context.input(ref), asked, options, context)
            _write(file, by_model[name])
        context.progress(number, len(options.models))
    scores = {name: scores_of(results) for name, results in by_model.items()}
    told = {"scores": {name: _plain(of) for name, of in scores.items()}}
    if options.published:
        told["published"] = plain_published(options.published)
        for sentence in without_score(options.published, scores):
            context.say(sentence)
    _write(context.folder / "results.json", {"lm_eval": version("lm_eval"), "models": by_model, **told})
    return Artifact(measures=_measures(scores) if options.compare else (), summary=told)


def _task_manager(options: EvaluateOptions) -> TaskManager | None:
    """lm-eval's registry; read only when its tasks are wanted, since that takes it eight seconds."""
    if not options.tasks:
        return None
    manager = TaskManager()
    for name in options.tasks:
        if name not in manager.all_tasks:
            raise StageError(f"lm-eval has no task '{name}'{near_miss(name, manager.all_tasks)}")
    return manager


def _evaluate_model(
    name: str, folder: Path, asked: _Asked, options: EvaluateOptions, context: StageContext
) -> dict[str, Any]:
    model, tokenizer = load_ready_model(
        folder, "auto" if options.precision == "model" else getattr(torch, options.precision)
    )
    model.to(options.device)
    results: dict[str, Any] = {}

    def keep(kind: str, lines: Any) -> None:
        (context.folder / kind).mkdir(exist_ok=True)
        samples.write_lines(context.folder / kind / f"{name}.jsonl", lines)

    try:
        if asked.rows:
            output = problems.run_problems(name, model, tokenizer, asked.rows, options)
            keep(samples.PROBLEMS, samples.of_problems(output["samples"]))
            results |= results_by_task(output)
        if asked.texts:
            found, lines = run_texts(name, model, tokenizer, asked.texts, options, context)
            keep(samples.TEXTS, lines)
            results |= found
        if options.ruler is not None:
            from smolrecipe_lm_eval.ruler import run_ruler  # its word lists take seconds to read

            found, lines = run_ruler(name, model, tokenizer, options.ruler, options, context)
            keep(samples.RULER, lines)
            results |= found
        if asked.manager is not None:
            results |= run_named_tasks(name, model, tokenizer, asked.manager, options)
    finally:
        del model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    for task, score in scores_of(results).items():
        context.say(f"{name}: {task} {score}")
    return results


def _measures(scores: Mapping[str, Mapping[str, Score]]) -> tuple[Measure, ...]:
    """What changed from each model to the next; the plain scores where there is only one."""
    if len(scores) == 1:
        ((model, of_model),) = scores.items()
        return tuple(
            Measure(
                name=f"{task}: {model}",
                after=score.value,
                better=score.better,
                unit=score.unit,
                samples=score.samples,
            )
            for task, score in of_model.items()
        )
    return tuple(
        Measure(
            name=f"{task}: {before} -> {after}",
            before=scores[before][task].value,
            after=scores[after][task].value,
            better=scores[after][task].better,
            unit=scores[after][task].unit,
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
