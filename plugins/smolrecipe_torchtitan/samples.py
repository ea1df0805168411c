"""Samples for torchtitan: a data loader whose whole state is one number, and the rule for labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch  # noqa: TID253
from torchtitan.components.dataloader import BaseDataLoader  # noqa: TID253
from torchtitan.components.loss import IGNORE_INDEX  # noqa: TID253

from smolrecipe import TokenRow, TokenRows

Batch = tuple[dict[str, torch.Tensor], torch.Tensor]
"""What torchtitan calls a batch: model inputs by name, and labels; every tensor of shape (batch, sequence_length)."""


def labels_of(row: TokenRow) -> np.ndarray:
    """The next token of every position, shape (sequence_length,).

    A label that is the first token of a document is masked out: nothing before it says what it will be. The token that
    ends a document is kept (nanotron's rule for SmolLM3).
    """
    labels = row.tokens[1:].astype(np.int64)
    labels[:-1][row.positions[1:] == 0] = IGNORE_INDEX
    if row.last_starts_document:
        labels[-1] = IGNORE_INDEX
    return labels


def collate(rows: Sequence[TokenRow], *, restart_positions: bool) -> Batch:
    """A batch of ``rows``. Without ``restart_positions`` documents are ignored: positions count through every row."""
    tokens = np.stack([row.tokens[:-1] for row in rows]).astype(np.int64)
    if restart_positions:
        positions = np.stack([row.positions for row in rows]).astype(np.int64)
    else:
        positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape).copy()
    labels = np.stack([labels_of(row) for row in rows])
    return {"input": torch.from_numpy(tokens), "positions": torch.from_numpy(positions)}, torch.from_numpy(labels)


class SampleLoader(BaseDataLoader):
    """Reads this process' part of every global batch.

    Global batch k is samples k * global_batch up to (k + 1) * global_batch, however many processes share it and
    however many micro-batches they make of it. So the number of samples consumed is the whole state, the same on every
    process, and a run may go on with another data-parallel degree.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(BaseDataLoader.Config):
        """What torchtitan's trainer builds the loader from."""

        rows: Callable[[], TokenRows] | None = None
        restart_positions: bool = True

    def __init__(
        self,
        config: Config,
        *,
        dp_world_size: int,
        dp_rank: int,
        local_batch_size: int,
        **kwargs: Any,
    ) -> None:
        if config.rows is None:
            raise ValueError("SampleLoader.Config.rows is not set")
        self.rows = config.rows()
        self.restart_positions = config.restart_positions
        self.processes = dp_world_size
        self.process = dp_rank
        self.batch = local_batch_size
        self.samples = 0

    def __iter__(self) -> Iterator[Batch]:
        while True:
            first = self.samples + self.process * self.batch
            rows = [self.rows.row(sample) for sample in range(first, first + self.batch)]
            # Counted before it is handed out: the trainer saves this state after the step that used the batch.
            self.samples += self.processes * self.batch
            yield collate(rows, restart_positions=self.restart_positions)

    def state_dict(self) -> dict[str, Any]:
        """The number of samples consumed by all processes together, and where that is in each data source.

        The position is for a later stage, which may have other samples; this one goes on by their number.
        """
        return {"samples": self.samples, "position": [[*pair] for pair in self.rows.position(self.samples).items()]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after that many samples."""
        self.samples = state_dict["samples"]
