"""The course of a stage that trains with a TRL trainer, whichever it is: go on from where it was, train, publish."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import field, frozen
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase, PrinterCallback, Trainer  # noqa: TID253

from smolrecipe import StageContext, StageError, StageStopped
from smolrecipe.durable import discard
from smolrecipe.stage import CHECKPOINTS_FOLDER, MODEL_FOLDER
from smolrecipe_trl.callbacks import AtStart, AtSteps, Progress, SealedCheckpoints, StopWhenAsked
from smolrecipe_trl.checkpoints import CourseSoFar, checkpoint_path, choose, course_of, step_of
from smolrecipe_trl.finite import Numbers, OnlyFinite, check_measured
from smolrecipe_trl.held_out import write_held_out
from smolrecipe_trl.options import TrainingOptions
from smolrecipe_trl.processes import Processes
from smolrecipe_trl.publish import publish_model
from smolrecipe_trl.row_sample import SAMPLE_FILE
from smolrecipe_trl.seals import damage, seal

ROWS_FOLDER = "rows"
TRAINER_FOLDER = "trainer"

Measured = Mapping[str, Numbers]


@frozen
class Course:
    """What came out of training."""

    before: Mapping[str, Any]
    after: Mapping[str, Any]
    last_step: Mapping[str, float]


@frozen(kw_only=True)
class CoursePlan:
    """What there is to do while a trainer trains."""

    rows: str
    """The rows to train on, see ``RowFiles.identity``."""
    measure: Callable[[], Measured]
    """Measures the model on held-out rows; called before the first step and after the last, on every process."""
    try_weights: Callable[[], Numbers]
    """Asks the model for one row, see ``OnlyFinite``; called on every process."""
    metrics: Mapping[str, str]
    """The engine's names of a step's metrics -> the names they are reported under."""
    columns: Sequence[str]
    """What the numbers are that ``measure`` finds of a row."""
    keep: Mapping[int, list[str]] = field(factory=dict)
    """Step -> names of checkpoints to publish after it."""


def run_course(
    trainer: Trainer,
    tokenizer: PreTrainedTokenizerBase,
    options: TrainingOptions,
    context: StageContext,
    processes: Processes,
    plan: CoursePlan,
) -> Course:
    """Train from the last whole checkpoint in the stage's folder, or from the start; publish the model; clean up.

    Raises:
        StageError: for numbers that are not finite, and for a checkpoint that no engine can load.
        StageStopped: when the stage was asked to stop; a checkpoint is saved, nothing is published.
    """
    checkpoint = _go_on_from(context, processes, plan)
    before: dict[str, Any] = dict(course_of(checkpoint).before) if checkpoint is not None else {}
    training = _Training(trainer)

    def at_start() -> None:
        training.began = True
        if checkpoint is None:
            before.update(plan.measure())
            check_measured(before, "before training")

    def keep(name: str) -> None:
        place = context.folder / CHECKPOINTS_FOLDER / name / MODEL_FOLDER
        if context.rank == 0:
            kept_seal(context, name).unlink(missing_ok=True)
        publish_model(trainer, tokenizer, options, place)
        if context.rank == 0:
            seal(place, kept_seal(context, name))

    stop = StopWhenAsked(processes)
    trainer.remove_callback(PrinterCallback)  # it would write every step to the log once more
    for callback in (
        AtStart(at_start),
        stop,
        OnlyFinite(plan.try_weights, plan.keep),
        Progress(context, plan.metrics),
        AtSteps(plan.keep, keep),
        SealedCheckpoints(context, processes, lambda step: CourseSoFar(step, plan.rows, before)),
    ):
        trainer.add_callback(callback)
    training.run(checkpoint)
    if stop.stopped:
        raise StageStopped(trainer.state.global_step)
    after = plan.measure()
    check_measured(after, f"after step {trainer.state.global_step}")
    publish_model(trainer, tokenizer, options, context.folder / MODEL_FOLDER)
    write_held_out(context, plan.columns, before, after)
    _clean_up(trainer, context)
    logged = next((logs for logs in reversed(trainer.state.log_history) if "loss" in logs), {})
    return Course(before, after, {name: logged[engine] for engine, name in plan.metrics.items() if engine in logged})


class _Training:
    """Runs the engine, and tells a checkpoint that it cannot load from what goes wrong later."""

    def __init__(self, trainer: Trainer) -> None:
        self.began = False
        self._trainer = trainer

    def run(self, checkpoint: Path | None) -> None:
        """Train to the end or to where a callback ends it."""
        try:
            self._trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        except (pickle.UnpicklingError, SafetensorError) as error:
            if checkpoint is None or (self.began and isinstance(error, SafetensorError)):  # which saving raises, too
                raise
            reason = str(error).strip().partition("\n")[0]
            raise StageError(
                f"{checkpoint} holds something else than tensors and numbers, which is not loaded ({reason}): it is "
                "not what this stage wrote; delete that folder to go on from the checkpoint before it"
            ) from error


def kept_seal(context: StageContext, name: str) -> Path:
    """Where it is noted what a checkpoint that is published on the way looks like."""
    return context.folder / TRAINER_FOLDER / f"kept-{name}.json"


def _go_on_from(context: StageContext, processes: Processes, plan: CoursePlan) -> Path | None:
    """The checkpoint to go on from. The first process looks for it and tells the others."""
    folder = context.folder / TRAINER_FOLDER
    step = 0
    if context.rank == 0:
        remade = {}
        for kept_step, names in plan.keep.items():
            for name in names:
                place = context.folder / CHECKPOINTS_FOLDER / name / MODEL_FOLDER
                reason = damage(place, kept_seal(context, name))
                if reason is not None:
                    remade[name] = kept_step
                    if place.exists() and kept_seal(context, name).exists():
                        context.say(f"checkpoint '{name}' {reason}")
        checkpoint = choose(folder, plan.rows, remade, context.say)
        step = 0 if checkpoint is None else step_of(checkpoint)
    step = processes.saved_step = processes.first_says(step)
    if not step:
        return None
    context.say(f"going on from {checkpoint_path(folder, step).name}")
    context.saved(step)
    return checkpoint_path(folder, step)


def _clean_up(trainer: Trainer, context: StageContext) -> None:
    """Keep the sample of the rows, delete what only an interrupted stage would need, leave the processes' group."""
    trainer.accelerator.wait_for_everyone()
    if context.rank == 0:
        sample = context.folder / SAMPLE_FILE
        beside = sample.with_name(f".{SAMPLE_FILE}.new")
        shutil.copyfile(context.folder / ROWS_FOLDER / SAMPLE_FILE, beside)
        beside.replace(sample)
        for name in (TRAINER_FOLDER, ROWS_FOLDER):
            discard(context.folder / name)
    trainer.accelerator.end_training()
