"""Where a stage starts from: a new model, another stage's checkpoint, or a Hugging Face folder."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from attrs import frozen
from torch.distributed.checkpoint.metadata import TensorStorageMetadata  # noqa: TID253

from smolrecipe import StageContext, StageError, StageRef
from smolrecipe.stage import CHECKPOINTS_FOLDER
from smolrecipe_torchtitan.checkpoints import METADATA, read_metadata, steps_of
from smolrecipe_torchtitan.options import PretrainOptions

POSITION_FILE = "data_position.json"
"""In a published checkpoint: how far each data source had been read."""

NOT_WEIGHTS = ("optimizer.", "lr_scheduler.", "train_state.", "dataloader.")

Shapes = Mapping[str, tuple[int, ...]]
"""Parameter name -> shape of the whole parameter."""


@frozen(kw_only=True)
class Start:
    """What a stage takes over. Without ``checkpoint`` and ``hugging_face`` it starts with a new model.

    ``step`` counts the optimizer steps of the trajectory before this stage; ``position`` is what the data goes on from.
    """

    checkpoint: Path | None = None
    hugging_face: Path | None = None
    everything: bool = False
    step: int = 0
    position: Mapping[str, int] | None = None


def find_start(options: PretrainOptions, context: StageContext) -> Start:
    """Where the options say that the stage starts.

    Raises:
        StageError: when there is no such checkpoint, or it does not say what is to be carried on.
    """
    if options.from_ is None:
        return Start()
    artifact = context.inputs[options.from_.stage]
    if not any((path / METADATA).is_file() for path in steps_of(artifact / CHECKPOINTS_FOLDER).values()):
        if options.carry == "everything":
            raise StageError(
                f"carry: everything needs the checkpoint of a pretraining stage, and '{options.from_.stage}' published "
                "none: use carry: weights"
            )
        return Start(hugging_face=context.input(options.from_))
    step, checkpoint = _find_checkpoint(options.from_, context)
    if options.carry == "weights":
        return Start(checkpoint=checkpoint)
    position = checkpoint / POSITION_FILE
    if not position.is_file():
        raise StageError(
            f"the checkpoint {checkpoint} does not say how far its data was read (no {POSITION_FILE}): "
            "use carry: weights, or run that stage again"
        )
    return Start(checkpoint=checkpoint, everything=True, step=step, position=json.loads(position.read_text()))


def _find_checkpoint(ref: StageRef, context: StageContext) -> tuple[int, Path]:
    folder = context.input(StageRef(ref.stage), CHECKPOINTS_FOLDER)
    found = {step: path for step, path in steps_of(folder).items() if (path / METADATA).is_file()}
    if ref.checkpoint:
        found = {step: path for step, path in found.items() if path.name == ref.checkpoint}
    if not found:
        wanted = f"'{ref.checkpoint}' of stage '{ref.stage}'" if ref.checkpoint else f"of stage '{ref.stage}'"
        there = ", ".join(f"'{path.name}'" for path in steps_of(folder).values()) or "none"
        raise StageError(f"there is no checkpoint {wanted} that training can start from; there are: {there}")
    return max(found.items())


def check_weights(checkpoint: Path, parameters: Shapes) -> None:
    """Refuse a checkpoint whose tensors are not exactly the model's.

    Raises:
        StageError: naming the tensors that are missing, too many or of another shape.
    """
    held = {
        name: tuple(entry.size)
        for name, entry in read_metadata(checkpoint).state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata) and not name.startswith(NOT_WEIGHTS)
    }
    refuse_misfits(held, parameters, f"checkpoint {checkpoint}")


def check_optimizer(checkpoint: Path, needed: Collection[str]) -> None:
    """Refuse to carry on another optimizer's state.

    Raises:
        StageError: naming what the optimizer keeps and the checkpoint does not have.
    """
    held = {
        name.removeprefix("optimizer.")
        for name in read_metadata(checkpoint).state_dict_metadata
        if name.startswith("optimizer.")
    }
    if missing := sorted(set(needed) - held):
        raise StageError(
            f"carry: everything cannot carry on the optimizer: checkpoint {checkpoint} has no {_few(missing)}. "
            "Use the optimizer (with the same kinds of settings) of the stage before, or carry: weights"
        )


def refuse_misfits(held: Shapes, wanted: Shapes, where: str) -> None:
    """Refuse ``held`` unless it has exactly the tensors in ``wanted``.

    Raises:
        StageError: naming the tensors that are missing, too many or of another shape.
    """
    problems = []
    if missing := sorted(wanted.keys() - held.keys()):
        problems.append(f"lacks {_few(missing)}")
    if extra := sorted(held.keys() - wanted.keys()):
        problems.append(f"has {_few(extra)}, which the model does not have")
    misshapen = [
        f"{name} of shape {_shape(held[name])} instead of {_shape(wanted[name])}"
        for name in sorted(wanted.keys() & held.keys())
        if tuple(held[name]) != tuple(wanted[name])
    ]
    if misshapen:
        problems.append(f"has {_few(misshapen)}")
    if problems:
        raise StageError(f"{where} does not fit the stage's model: it {'; it '.join(problems)}")


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def _shape(size: Any) -> str:
    return " x ".join(map(str, size))
