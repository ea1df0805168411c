"""Measuring on held-out rows: cutting them into batches of bounded size and sharing these among the processes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow.compute as compute
import torch  # noqa: TID253
from datasets import Dataset  # noqa: TID253
from transformers import Trainer  # noqa: TID253

from smolrecipe import Measure, StageContext
from smolrecipe.durable import write_whole

HELD_OUT_FILE = "held_out.json"
"""What measures are made of: ``columns``, and ``before`` and ``after`` training by source a list of numbers a row."""

LOSS = "held-out loss"
ACCURACY = "held-out token accuracy"
LEARNED_COLUMNS = ("loss_sum", "right", "learned_tokens")
"""What ``learned_loss`` finds of a row."""

Tables = Mapping[str, Sequence[Sequence[float]]]
"""Rows of numbers by source."""

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


def own_batches(
    trainer: Trainer, all_batches: Sequence[list[int]], between: Callable[[], None] | None = None
) -> Iterator[tuple[list[int], bool]]:
    """This process' share of the batches. The bool says whether it counts: under FSDP every process has to compute the
    same number, so some compute one that is another's. ``between`` is called before each of them, on every process."""
    processes, own = trainer.accelerator.num_processes, trainer.accelerator.process_index
    for start in range(0, len(all_batches), processes):
        if between is not None:
            between()
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


def learned_loss(
    trainer: Trainer, rows: Dataset, collate: Collate, most_tokens: int, between: Callable[[], None] | None = None
) -> list[list[float]]:
    """What the model makes of each row: ``LEARNED_COLUMNS``, the loss in nats. For ``between`` see ``own_batches``."""
    device = trainer.args.device
    found = torch.zeros(len(rows), 3, dtype=torch.float64, device=device)
    with measuring(trainer) as model:
        for numbers, counts in own_batches(trainer, batches(row_lengths(rows, "input_ids"), most_tokens), between):
            batch = collate([rows[number] for number in numbers])
            outputs = model(**{name: tensor.to(device) for name, tensor in batch.items()}, fused_lm_head=True)
            if counts:
                parts = (-outputs.log_probs, outputs.is_top1, outputs.label_mask)
                values = torch.stack([part.double().sum(dim=1) for part in parts], dim=1)
                found[torch.tensor(numbers, device=device)] = values
    return shared(trainer, found)


def means(table: Sequence[Sequence[float]]) -> dict[str, float]:
    """The loss in nats and the share of right first guesses per learned token, of rows of ``LEARNED_COLUMNS``."""
    loss, right, tokens = (math.fsum(column) for column in zip(*table, strict=True))
    return {LOSS: loss / tokens, ACCURACY: right / tokens}


def shared(trainer: Trainer, found: torch.Tensor) -> list[list[float]]:
    """A table of which every process filled some rows and left the others at zero, whole."""
    return [list(map(float, row)) for row in trainer.accelerator.reduce(found, reduction="sum").tolist()]


def write_held_out(context: StageContext, columns: Sequence[str], before: Tables, after: Tables) -> None:
    """Publish what the measures are made of, row by row."""
    if context.rank == 0 and after:
        tables = {"columns": list(columns), "before": before, "after": after}
        write_whole(context.folder / HELD_OUT_FILE, json.dumps(tables) + "\n")


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
