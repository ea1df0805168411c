"""Answers: scores follow from them, and they from the models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch  # noqa: TID253

from smolrecipe import Proof
from smolrecipe_lm_eval.proofs.told import compare

GENERATED_AGAIN = 8
"""Questions of each model whose answers are generated again, spread over all of them."""


def problem_scores(name: str, answers: Sequence[Mapping[str, Any]], scores: Mapping[str, Mapping[str, Any]]) -> Proof:
    """Each score is the share of answers that are the text asked for, its error the standard error of that mean."""
    right: dict[str, list[float]] = {}
    for answer in answers:
        right.setdefault(answer["task"], []).append(float(answer["given"] == answer["answer"]))
    return _means("scores follow from the answers", name, right, scores)


def ruler_scores(name: str, answers: Sequence[Mapping[str, Any]], scores: Mapping[str, Mapping[str, Any]]) -> Proof:
    """Each score is the mean share of words that the answers have, whatever their case; ``ruler`` the mean of those."""
    found: dict[str, list[float]] = {}
    for answer in answers:
        given, words = answer["given"].lower(), [word.lower() for word in answer["words"]]
        found.setdefault(answer["task"], []).append(sum(word in given for word in words) / len(words))
    wrong = []
    for length in sorted({task.rpartition(" @ ")[2] for task in found}):
        means = [sum(of) / len(of) for task, of in found.items() if task.endswith(f" @ {length}")]
        mean = sum(means) / len(means)
        wrong += compare(f"ruler @ {length}", scores.get(f"ruler @ {length}", {}), {"score": mean}, 1e-9)
    return _means("scores of RULER follow from the answers", name, found, scores, wrong)


def _means(
    claim: str,
    name: str,
    shares: Mapping[str, Sequence[float]],
    scores: Mapping[str, Mapping[str, Any]],
    wrong: Sequence[str] = (),
) -> Proof:
    found = [*wrong]
    for task, of_task in sorted(shares.items()):
        count, mean = len(of_task), sum(of_task) / len(of_task)
        spread = sum((share - mean) ** 2 for share in of_task)
        error = math.sqrt(spread / (count - 1) / count) if count > 1 else 0.0
        told = {"score": mean, "stderr": error, "samples": count}
        found += compare(task, scores.get(task, {}), told, 1e-9)
    return Proof.same(f"{claim} ({name})", len(found), 3 * len(shares), of="numbers", note="; ".join(found))


@torch.inference_mode()
def answers_again(
    what: str,
    name: str,
    answers: Sequence[Mapping[str, Any]],
    model: Any,
    tokenizer: Any,
    think_end: str,
    stop: Sequence[str] = (),
) -> Proof:
    """Continue some prompts greedily, one at a time, without padding, and compare with the published answers."""
    chosen = [answers[index * len(answers) // GENERATED_AGAIN] for index in range(min(GENERATED_AGAIN, len(answers)))]
    differing = []
    for answer in chosen:
        prompt = tokenizer(answer["prompt"], add_special_tokens=answer["special_tokens"], return_tensors="pt").input_ids
        given = _continue_greedily(model, prompt, tokenizer.eos_token_id, answer["most_tokens"])
        text = _up_to(stop, _after_thinking(tokenizer, given, think_end))
        if text != answer["given"].strip():
            differing.append(f"'{answer['task']}', {answer['prompt'][-60:]!r}: {text!r}, published {answer['given']!r}")
    return _verdict(f"{what} are the model's own ({name})", model.dtype, differing, len(chosen))


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
    if not think_end:
        return str(tokenizer.decode(tokens, skip_special_tokens=True)).strip()
    end = tokenizer.get_vocab().get(think_end)
    if end is not None:  # decoding would drop it where it is a special token
        last = max((index for index, token in enumerate(tokens) if token == end), default=-1)
        return str(tokenizer.decode(tokens[last + 1 :], skip_special_tokens=True)).strip()
    return str(tokenizer.decode(tokens, skip_special_tokens=True)).rpartition(think_end)[2].strip()


def _up_to(stop: Sequence[str], text: str) -> str:
    """The text before the first of the texts that end an answer."""
    return min((text.partition(end)[0] for end in stop), key=len, default=text).strip()


def _verdict(claim: str, dtype: torch.dtype, differing: list[str], compared: int) -> Proof:
    # Padding changes the order of sums. In float32 that decides no answer; in half precision it may decide a few, where
    # two tokens are equally likely.
    allowed = 0 if dtype == torch.float32 else compared // 4
    return Proof(
        claim=claim,
        holds=compared > 0 and len(differing) <= allowed,
        measured=f"{len(differing)} of {compared} answers differ",
        bound=str(allowed),
        note="; ".join(differing[:3]),
    )
