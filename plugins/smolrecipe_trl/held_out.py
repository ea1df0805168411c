"""Measuring on held-out rows: cutting them into batches of bounded size and sharing these among the processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow.compute as compute
import torch  # noqa: TID253
from datasets import Dataset  # noqa: TID253
from transformers import Trainer  # noqa: TID253

from smolrecipe import Measure

Collate = Callable[[Sequence[Mapping[str, Any]]], Mapping[str, torch.Tensor]]


def batches(lengths: Sequence[int], most_tokens: int) -> list[list[int]]:
    """Row numbers in batches of similar length, each of at most ``most_tokens`` tokens once padded."""
    result: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: (lengths[row], row)):
        if result and lengths[row] * (len(result[-1]) + 1) <= most_tokens:
            result[-1].append(row)
        else:
            result.append([row])
    return result


def row_lengths(rows: Dataset, column: str) -> list[int]:
    """How many integers each row has in a column, without reading them."""
    return [int(length) for length in compute.list_value_length(rows.data.column(column)).to_pylist()]


def own_batches(trainer: Trainer, all_batches: Sequence[list[int]]) -> Iterator[tuple[list[int], bool]]:
    """This process' share of the batches. The bool says whether it counts: under FSDP every process has to compute the
    same number, so some compute one that is another's."""
    processes, own = trainer.accelerator.num_processes, trainer.accelerator.process_index
    for start in range(0, len(all_batches), processes):
        index = start + own
        yield all_batches[min(index, len(all_batches) - 1)], index < len(all_batches)


@contextmanager
def measuring(trainer: Trainer) -> Iterator[torch.nn.Module]:
    """The model, without gradients and in evaluation mode; training mode is put back."""
    was_training = trainer.model.training
    trainer.model.eval()
    try:
        with torch.no_grad():
            yield trainer.model
    finally:
        trainer.model.train(was_training)


def summed(trainer: Trainer, values: torch.Tensor) -> list[float]:
    """The values of shape (n,) summed over all processes."""
    return [float(value) for value in trainer.accelerator.reduce(values, reduction="sum")]


def learned_loss(trainer: Trainer, rows: Dataset, collate: Collate, most_tokens: int) -> tuple[float, float]:
    """The mean loss in nats and the share of right first guesses over the learned tokens of ``rows``."""
    device = trainer.args.device
    totals = torch.zeros(3, dtype=torch.float64, device=device)
    lengths = row_lengths(rows, "input_ids")
    with measuring(trainer) as model:
        for numbers, counts in own_batches(trainer, batches(lengths, most_tokens)):
            batch = collate([rows[number] for number in numbers])
            outputs = model(**{name: tensor.to(device) for name, tensor in batch.items()}, fused_lm_head=True)
            if counts:
                totals += torch.stack(
                    [
                        -outputs.log_probs.double().sum(),
                        outputs.is_top1.sum().double(),
                        outputs.label_mask.sum().double(),
                    ]
                )
    loss, right, tokens = summed(trainer, totals)
    return loss / tokens, right / tokens


def before_and_after(
    before: Mapping[str, Mapping[str, float]],
    after: Mapping[str, Mapping[str, float]],
    kinds: Mapping[str, Mapping[str, Any]],
    samples: Mapping[str, int],
) -> tuple[Measure, ...]:
    """Measures of each held-out source: ``before[source][kind]`` and ``after[source][kind]``."""
    several = len(after) > 1
    return tuple(
        Measure(
            name=f"{kind} ({source})" if several else kind,
            before=before[source][kind],
            after=after[source][kind],
            samples=samples[source],
            **described,
        )
        for source in after
        for kind, described in kinds.items()
        if kind in after[source]
    )
