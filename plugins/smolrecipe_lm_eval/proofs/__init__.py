"""What can be proven of published scores, without lm-eval: scores follow from samples, and samples from the models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import torch  # noqa: TID253

from smolrecipe import Proof, StageContext
from smolrecipe.ready_model import load_ready_model
from smolrecipe_lm_eval import samples
from smolrecipe_lm_eval.options import EvaluateOptions
from smolrecipe_lm_eval.proofs.answers import answers_again, problem_scores, ruler_scores
from smolrecipe_lm_eval.proofs.likelihoods import likelihoods_again, text_scores


def proofs_of(options: EvaluateOptions, context: StageContext) -> Iterator[Proof]:
    """Scores, standard errors, and some samples again: of all but lm-eval's own tasks, whose samples are not kept."""
    scores = json.loads((context.folder / "results.json").read_text(encoding="utf-8"))["scores"]
    for ref in options.models:
        name = str(ref)
        told = scores.get(name, {})
        answers = samples.read_lines(context.folder, samples.PROBLEMS, name)
        found = samples.read_lines(context.folder, samples.RULER, name)
        documents = samples.read_lines(context.folder, samples.TEXTS, name)
        if not (answers or found or documents):
            continue
        model, tokenizer = load_ready_model(
            context.input(ref), "auto" if options.precision == "model" else getattr(torch, options.precision)
        )
        if answers:
            yield problem_scores(name, answers, told)
            asked = [answer | {"most_tokens": options.max_new_tokens, "special_tokens": False} for answer in answers]
            yield answers_again("answers", name, asked, model, tokenizer, options.think_end, options.stop)
        if documents:
            yield text_scores(name, documents, told)
            yield likelihoods_again(name, documents, model, tokenizer)
        if found:
            yield ruler_scores(name, found, told)
            yield from _ruler_again(name, found, model, tokenizer, options)


def _ruler_again(
    name: str, found: list[dict[str, Any]], model: Any, tokenizer: Any, options: EvaluateOptions
) -> Iterator[Proof]:
    kept = [sample for sample in found if sample["prompt"] is not None]
    if kept:  # of longer contexts only the end is published, and the first device may be too small for them
        end = options.think_end if options.apply_chat_template else ""
        yield answers_again("answers to RULER", name, kept, model, tokenizer, end)
