"""What can be proven of published scores, without lm-eval: scores follow from answers, and answers from the models."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch  # noqa: TID253

from smolrecipe import Proof, StageContext
from smolrecipe_lm_eval import EvaluateOptions
from smolrecipe_lm_eval.models import load

GENERATED_AGAIN = 8
"""Problems of each model whose answers are generated again, spread over all of them."""


def proofs(options: EvaluateOptions, context: StageContext) -> Iterator[Proof]:
    """Scores, standard errors, and a sample of the answers; only of problems, whose answers are published."""
    scores = json.loads((context.folder / "results.json").read_text(encoding="utf-8"))["scores"]
    for ref in options.models:
        name = str(ref)
        path = context.folder / "samples" / f"{name}.jsonl"
        if not path.is_file():
            continue
        answers = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        yield _scores_follow(name, answers, scores.get(name, {}))
        yield _answers_again(name, answers, context.input(ref), options)


def _scores_follow(name: str, answers: list[dict[str, Any]], scores: Mapping[str, Mapping[str, Any]]) -> Proof:
    """Each score is the share of answers that are the text asked for, its error the standard error of that mean."""
    wrong, tasks = [], {answer["task"] for answer in answers}
    for task in sorted(tasks):
        right = [answer["given"] == answer["answer"] for answer in answers if answer["task"] == task]
        count, mean = len(right), sum(right) / len(right)
        error = math.sqrt(mean * (1 - mean) / (count - 1)) if count > 1 else 0.0
        told = scores.get(task, {})
        expected = {"score": mean, "stderr": error, "samples": count}
        wrong += [
            f"'{task}': {key} is {told.get(key)}, and {value:.4g} of the published answers"
            for key, value in expected.items()
            if told.get(key) is None or not math.isclose(told[key], value, rel_tol=1e-9, abs_tol=1e-12)
        ]
    return Proof.same(
        f"scores follow from the answers ({name})", len(wrong), 3 * len(tasks), of="numbers", note="; ".join(wrong)
    )


@torch.inference_mode()
def _answers_again(name: str, answers: list[dict[str, Any]], folder: Path, options: EvaluateOptions) -> Proof:
    """Continue some prompts greedily, one at a time, without padding, and compare with the published answers."""
    model, tokenizer = load(folder, "auto" if options.precision == "model" else getattr(torch, options.precision))
    chosen = [answers[index * len(answers) // GENERATED_AGAIN] for index in range(min(GENERATED_AGAIN, len(answers)))]
    differing = []
    for answer in chosen:
        prompt = tokenizer(answer["prompt"], add_special_tokens=False, return_tensors="pt").input_ids
        given = _continue_greedily(model, prompt, tokenizer.eos_token_id, options.max_new_tokens)
        text = _up_to(options.stop, _after_thinking(tokenizer, given, options.think_end))
        if text != answer["given"]:
            differing.append(f"'{answer['task']}', {answer['prompt'][-60:]!r}: {text!r}, published {answer['given']!r}")
    return _verdict(name, model.dtype, differing, len(chosen))


def _continue_greedily(model: Any, prompt: torch.Tensor, end: int, most: int) -> list[int]:
    """The likeliest token again and again, up to ``end``, which is left out; ``prompt`` has the shape (1, tokens)."""
    tokens: list[int] = []
    cache = None
    step = prompt
    while len(tokens) < most:
        output = model(step, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        token = int(output.logits[0, -1].argmax())
        if token == end:
            break
        tokens.append(token)
        step = torch.tensor([[token]])
    return tokens


def _after_thinking(tokenizer: Any, tokens: list[int], think_end: str) -> str:
    """The text behind the last end of a reasoning trace, all of it where there is none."""
    end = tokenizer.get_vocab().get(think_end)
    if end is not None:  # decoding would drop it where it is a special token
        last = max((index for index, token in enumerate(tokens) if token == end), default=-1)
        return str(tokenizer.decode(tokens[last + 1 :], skip_special_tokens=True)).strip()
    return str(tokenizer.decode(tokens, skip_special_tokens=True)).rpartition(think_end)[2].strip()


def _up_to(stop: list[str], text: str) -> str:
    """The text before the first of the texts that end an answer."""
    return min((text.partition(end)[0] for end in stop), key=len, default=text).strip()


def _verdict(name: str, dtype: torch.dtype, differing: list[str], compared: int) -> Proof:
    # Padding changes the order of sums. In float32 that decides no answer; in half precision it may decide a few, where
    # two tokens are equally likely.
    allowed = 0 if dtype == torch.float32 else compared // 4
    return Proof(
        claim=f"answers are the model's own ({name})",
        holds=compared > 0 and len(differing) <= allowed,
        measured=f"{len(differing)} of {compared} answers differ",
        bound=str(allowed),
        note="; ".join(differing[:3]),
    )
