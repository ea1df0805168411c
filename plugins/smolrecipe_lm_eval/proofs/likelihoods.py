"""Perplexities: they follow from the documents' log-likelihoods, and these from the models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch  # noqa: TID253

from smolrecipe import Proof
from smolrecipe_lm_eval.proofs.told import compare

COMPUTED_AGAIN = 6
"""Documents of each model whose log-likelihood is computed again, spread over all of them."""


def text_scores(name: str, documents: list[dict[str, Any]], scores: Mapping[str, Mapping[str, Any]]) -> Proof:
    """Bits per byte are all nats over ln 2 times all bytes, perplexity is exp of all nats over all tokens; errors from
    the sums of squares and products over documents.
    """
    wrong: list[str] = []
    tasks = sorted({document["task"] for document in documents})
    for task in tasks:
        of_task = [document for document in documents if document["task"] == task]
        nats = torch.tensor([-document["loglikelihood"] for document in of_task], dtype=torch.float64)
        for suffix, key in ((", per byte", "bytes"), (", per token", "tokens")):
            sizes = torch.tensor([document[key] for document in of_task], dtype=torch.float64)
            ratio = float(nats.sum() / sizes.sum())
            squares = float(nats @ nats - 2 * ratio * (nats @ sizes) + ratio**2 * (sizes @ sizes))
            count = len(of_task)
            error = math.sqrt(max(squares, 0.0) * count / (count - 1)) / float(sizes.sum()) if count > 1 else 0.0
            value = ratio / math.log(2) if key == "bytes" else math.exp(min(ratio, 700.0))
            slope = 1 / math.log(2) if key == "bytes" else value
            told = scores.get(task + suffix, {})
            wrong += compare(task + suffix, told, {"score": value, "samples": count}, 1e-9)
            wrong += compare(task + suffix, told, {"stderr": error * slope}, 1e-4)  # small differences of large sums
    return Proof.same(
        f"perplexities follow from the texts ({name})", len(wrong), 6 * len(tasks), of="numbers", note="; ".join(wrong)
    )


@torch.inference_mode()
def likelihoods_again(name: str, documents: list[dict[str, Any]], model: Any, tokenizer: Any) -> Proof:
    """Some documents, one at a time and without padding, each token after all before it that the model takes."""
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    most = int(model.config.max_position_embeddings)
    count = min(COMPUTED_AGAIN, len(documents))
    worst, where = 0.0, ""
    for document in (documents[index * len(documents) // count] for index in range(count)):
        tokens = tokenizer(document["text"], add_special_tokens=False)["input_ids"]
        nats = _nats([start, *tokens], model, most)
        apart = abs(nats + document["loglikelihood"]) / len(tokens)
        if apart > worst or len(tokens) != document["tokens"] or len(document["text"].encode()) != document["bytes"]:
            worst = max(apart, worst) if len(tokens) == document["tokens"] else math.inf
            where = (
                f"'{document['task']}', {document['text'][:60]!r}: {nats:.6g} nats over {len(tokens)} tokens, "
                f"published {-document['loglikelihood']:.6g} over {document['tokens']}"
            )
    # Padding and the size of a batch change the order of sums.
    bound = 1e-4 if model.dtype == torch.float32 else 0.05
    holds = worst <= bound
    return Proof(
        claim=f"log-likelihoods are the model's own ({name})",
        holds=holds,
        measured=f"{worst:.2g} nats per token apart, of {count} texts",
        bound=f"{bound:g}",
        note="" if holds else where,
    )


def _nats(tokens: list[int], model: Any, most: int) -> float:
    """The negative log-likelihood of all tokens but the first, ``most`` at a time; the last of several windows reaches
    back as far as the model takes.
    """
    total, done = 0.0, 1
    while done < len(tokens):
        end = min(done + most, len(tokens))
        begin = max(0, end - 1 - most)
        logits = model(torch.tensor([tokens[begin : end - 1]])).logits[0, done - 1 - begin :].float()
        wanted = torch.tensor(tokens[done:end])
        total += float(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum"))
        done = end
    return total
