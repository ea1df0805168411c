"""The course of a stage that trains with a TRL trainer, whichever it is: go on from where it was, train, publish."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import frozen
from transformers import PreTrainedTokenizerBase, PrinterCallback, Trainer  # noqa: TID253

from smolrecipe import StageContext
from smolrecipe.stage import CHECKPOINTS_FOLDER, MODEL_FOLDER
from smolrecipe_trl.callbacks import AtStart, AtSteps, CompleteCheckpoints, Progress
from smolrecipe_trl.checkpoints import last_complete, remove_incomplete
from smolrecipe_trl.options import TrainingOptions
from smolrecipe_trl.publish import publish_model
from smolrecipe_trl.row_sample import SAMPLE_FILE

ROWS_FOLDER = "rows"
TRAINER_FOLDER = "trainer"
_BEFORE_FILE = "before.json"

Measured = Mapping[str, Any]


@frozen
class Course:
    """What came out of training."""

    before: Measured
    after: Measured
    last_step: Mapping[str, float]


def run_course(
    trainer: Trainer,
    tokenizer: PreTrainedTokenizerBase,
    options: TrainingOptions,
    context: StageContext,
    *,
    measure: Callable[[], Measured],
    metrics: Mapping[str, str],
    keep: Mapping[int, list[str]] | None = None,
) -> Course:
    """Train from the last complete checkpoint in the stage's folder, or from the start; publish the model; clean up.

    Args:
        measure: measures the model as it is; called when the model is ready and again at the end, on every process.
        metrics: the engine's names of a step's metrics -> the names they are reported under.
        keep: step -> names of checkpoints to publish after it.
    """
    folder = context.folder / TRAINER_FOLDER
    checkpoint = last_complete(folder)
    if context.rank == 0:
        for path in remove_incomplete(folder):
            context.say(f"{path.name} was cut short and is not used")
    if checkpoint is not None:
        context.say(f"going on from {checkpoint.name}")
    before: dict[str, Any] = {}

    def at_start() -> None:
        before.update(_once(context, folder / _BEFORE_FILE, measure))

    def publish(where: Path) -> None:
        publish_model(trainer, tokenizer, options, where / MODEL_FOLDER)

    trainer.remove_callback(PrinterCallback)  # it would write every step to the log once more
    trainer.add_callback(AtStart(at_start))
    trainer.add_callback(Progress(context, metrics))
    trainer.add_callback(CompleteCheckpoints())
    if keep:
        trainer.add_callback(AtSteps(keep, lambda name: publish(context.folder / CHECKPOINTS_FOLDER / name)))
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    after = measure()
    publish(context.folder)
    _clean_up(trainer, context)
    logged = next((logs for logs in reversed(trainer.state.log_history) if "loss" in logs), {})
    return Course(before, after, {name: logged[engine] for engine, name in metrics.items() if engine in logged})


def _clean_up(trainer: Trainer, context: StageContext) -> None:
    """Keep the sample of the rows, delete what only an interrupted stage would need, leave the processes' group."""
    trainer.accelerator.wait_for_everyone()
    if context.rank == 0:
        (context.folder / ROWS_FOLDER / SAMPLE_FILE).replace(context.folder / SAMPLE_FILE)
        for name in (TRAINER_FOLDER, ROWS_FOLDER):
            shutil.rmtree(context.folder / name, ignore_errors=True)
    trainer.accelerator.end_training()


def _once(context: StageContext, path: Path, measure: Callable[[], Measured]) -> Measured:
    """What ``measure`` finds before the first step, kept in a file: a stage that goes on has another model by then."""
    if path.exists():
        return dict(json.loads(path.read_text()))
    measured = measure()
    if context.rank == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps(measured))
        partial.replace(path)
    return measured
