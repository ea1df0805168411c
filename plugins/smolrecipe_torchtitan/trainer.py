"""torchtitan's trainer with a training loop for stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch  # noqa: TID253
from torch.distributed.tensor import DTensor  # noqa: TID253
from torchtitan.trainer import Trainer  # noqa: TID253

from smolrecipe import StageStopped
from smolrecipe_torchtitan.metrics import ADVICE, NotFiniteError, not_finite
from smolrecipe_torchtitan.together import Together


class StageTrainer(Trainer):
    """torchtitan's trainer, whose steps, parallelism and checkpoints it uses as they are.

    The loop around them is its own: loading comes apart from training, so that the held-out loss can be measured in
    between, and torchtitan's profiler and its two seconds of sleep at the end are left out.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(Trainer.Config):
        """torchtitan's, with how many steps of the trajectory came before this stage, and who says that it is to
        stop."""

        before: int = 0
        heed: Callable[[], bool] = lambda: False

    place = "before the first step"
    """What is being done, for errors."""

    def meet(self) -> Together:
        """Set up what the processes need to agree. All of them call it together, once, before anything else."""
        self.together = Together(self.config.comm.train_timeout_seconds, self)
        return self.together

    def restore(self, step: int | None) -> None:
        """Load this stage's checkpoint of a step of the trajectory, or else what its configuration starts from."""
        self.checkpointer.load(-1 if step is None else step)

    @property
    def own_step(self) -> int:
        """How many steps of this stage are made, or in the making."""
        return int(self.step - self.config.before)

    def stop_if_asked(self) -> None:
        """End here if the stage was asked to stop; for moments at which everything is saved.

        Raises:
            StageStopped: in all processes, if one of them was asked.
        """
        (stop,) = self.together.any(self.config.heed())
        if stop:
            raise StageStopped(self.own_step)

    def train(self) -> None:
        """Train up to the configured step, saving on the way and at the end.

        A stage that is asked to stop ends the step that it is in and saves it: that is how long it takes.

        Raises:
            StageError: when the loss, the gradients or the weights to be saved are not finite.
            StageStopped: when the stage was asked to stop, after saving.
        """
        try:
            self._train()
        except NotFiniteError:
            # In all processes alike, so that what is being saved can be saved.
            self.checkpointer.maybe_wait_for_saving()
            raise

    def _train(self) -> None:
        last = self.config.training.steps
        batches = self.batch_generator(self.dataloader)
        self.metrics_processor.start_clock()
        while self.step < last:
            self.step += 1
            self.place = f"in step {self.own_step}"
            self.gc_handler.run(self.step)
            self.train_step(batches)
            stop, unsaved = self.together.any(self.config.heed(), self.checkpointer.has_failed())
            if unsaved:
                self.checkpointer.maybe_wait_for_saving()  # which says how; it fails in all processes
            self.checkpointer.notice_saved()
            if stop or self.step == last or self.checkpointer.is_due(self.step):
                self._refuse_broken_weights()
            # Written at once, not beside training, when there is nothing more to train.
            self.checkpointer.save(self.step, last_step=stop or self.step == last)
            if stop:
                raise StageStopped(self.own_step)
            self.together.first_step_is_made()
        self.checkpointer.maybe_wait_for_saving()

    def train_step(self, data_iterator: Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]) -> None:
        """One optimizer step; see ``Trainer.train_step``."""
        try:
            super().train_step(data_iterator)
        except RuntimeError as error:
            # torchtitan's own words; nothing else tells this error from others.
            if not str(error).startswith("Loss is not finite"):
                raise
            raise not_finite("loss", _loss_in(error), self.own_step) from None

    @torch.no_grad()
    def _refuse_broken_weights(self) -> None:
        """Refuse to save what the step has just broken: its own loss came before."""
        held = [_local(parameter) for part in self.model_parts for parameter in part.parameters()]
        whole = bool(torch.stack([torch.isfinite(tensor).all() for tensor in held]).all()) if held else True
        (broken,) = self.together.any(not whole)
        if broken:
            raise NotFiniteError(
                f"the weights are no longer finite after step {self.own_step}; no checkpoint was kept from there on. "
                f"{ADVICE} of this step"
            )


def _local(parameter: torch.Tensor) -> torch.Tensor:
    """The part of a parameter that this process holds."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def _loss_in(error: RuntimeError) -> float:
    value: Any = str(error).partition("global_avg_loss=")[2].partition(")")[0]
    return float(value)
