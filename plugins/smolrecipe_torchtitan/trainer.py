"""torchtitan's trainer with a training loop for stages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch  # noqa: TID253
from torchtitan.trainer import Trainer  # noqa: TID253

from smolrecipe_torchtitan.metrics import not_finite


class StageTrainer(Trainer):
    """torchtitan's trainer, whose steps, parallelism and checkpoints it uses as they are.

    The loop around them is its own: loading comes apart from training, so that the held-out loss can be measured in
    between, and torchtitan's profiler and its two seconds of sleep at the end are left out.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(Trainer.Config):
        """torchtitan's."""

    def restore(self) -> None:
        """Load this stage's last checkpoint, or else what its configuration says that it starts from."""
        self.checkpointer.load()

    def train(self) -> None:
        """Train up to the configured step, saving on the way and at the end.

        Raises:
            StageError: when the loss or the gradients are not finite.
        """
        last = self.config.training.steps
        batches = self.batch_generator(self.dataloader)
        self.metrics_processor.start_clock()
        while self.step < last:
            self.step += 1
            self.gc_handler.run(self.step)
            self.train_step(batches)
            self.checkpointer.save(self.step, last_step=self.step == last)
        self.checkpointer.maybe_wait_for_saving()

    def train_step(self, data_iterator: Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]) -> None:
        """One optimizer step; see ``Trainer.train_step``."""
        try:
            super().train_step(data_iterator)
        except RuntimeError as error:
            # torchtitan's own words; nothing else tells this error from others.
            if not str(error).startswith("Loss is not finite"):
                raise
            raise not_finite("loss", _loss_in(error), self.step) from None


def _loss_in(error: RuntimeError) -> float:
    value: Any = str(error).partition("global_avg_loss=")[2].partition(")")[0]
    return float(value)
