"""The loss on held-out samples, in every parallel layout."""

from __future__ import annotations

from collections.abc import Sequence

import torch  # noqa: TID253
import torch.distributed as dist  # noqa: TID253
from torchtitan.components.loss import IGNORE_INDEX  # noqa: TID253

from smolrecipe import TokenRow
from smolrecipe_torchtitan.samples import Batch, collate
from smolrecipe_torchtitan.trainer import StageTrainer


@torch.no_grad()
def held_out_loss(trainer: StageTrainer, rows: Sequence[TokenRow], *, restart_positions: bool) -> float:
    """The mean loss over the unmasked labels of ``rows``, in nats per token.

    All processes call it together and get the same number. Each computes its part of the rows; rows of masked labels
    fill up the last batch, because collective operations need all processes.

    Raises:
        StageStopped: when the stage is asked to stop, before the next batch.
    """
    loader = trainer.dataloader
    seen = trainer.ntokens_seen
    for part in trainer.model_parts:
        part.eval()
    per_process = loader.batch * trainer.num_pipeline_parallel_microbatches
    sums = torch.zeros(2, dtype=torch.float64, device=trainer.device)
    for first in range(0, len(rows), per_process * loader.processes):
        trainer.stop_if_asked()
        mine = first + loader.process * per_process
        batches = [
            _batch(rows, start, loader.batch, restart_positions)
            for start in range(mine, mine + per_process, loader.batch)
        ]
        sums += _loss_and_labels(trainer, batches)
    for part in trainer.model_parts:
        part.train()
    trainer.ntokens_seen = seen
    # Processes that share a sample by tensor parallelism count it once each, in both sums.
    dist.all_reduce(sums)
    return float(sums[0] / sums[1])


def _batch(rows: Sequence[TokenRow], start: int, size: int, restart_positions: bool) -> Batch:
    chosen = list(rows[start : start + size])
    filling = size - len(chosen)
    inputs, labels = collate([*chosen, *[rows[0]] * filling], restart_positions=restart_positions)
    labels[len(chosen) :] = IGNORE_INDEX
    return inputs, labels


def _loss_and_labels(trainer: StageTrainer, batches: Sequence[Batch]) -> torch.Tensor:
    """Sum of losses and number of unmasked labels of this process' batches; zeros where it does not see the loss."""
    prepared = []
    for inputs, labels in batches:
        on_device = {name: value.to(trainer.device) for name, value in inputs.items()}
        prepared.append(trainer.post_dataloading_process(on_device, labels.to(trainer.device)))
    with trainer.train_context():
        if trainer.parallel_dims.pp_enabled:
            losses: list[torch.Tensor] = []
            trainer.pp_schedule.eval(
                arg_mbs=[(tokens,) for tokens, _, _ in prepared] if trainer.pp_has_first_stage else None,
                kwarg_mbs=[extra for _, _, extra in prepared],
                target_mbs=[labels for _, labels, _ in prepared] if trainer.pp_has_last_stage else None,
                losses=losses if trainer.pp_has_last_stage else None,
            )
            if not trainer.pp_has_last_stage:
                return torch.zeros(2, dtype=torch.float64, device=trainer.device)
        else:
            losses = [
                trainer.loss_fn(trainer.model_parts[0](tokens, **extra), labels)[0]
                for tokens, labels, extra in prepared
            ]
    loss = torch.stack([loss.double() for loss in losses]).sum()
    counted = sum((labels != IGNORE_INDEX).sum() for _, labels, _ in prepared)
    return torch.stack([loss.to(trainer.device), torch.as_tensor(counted, device=trainer.device).double()])
