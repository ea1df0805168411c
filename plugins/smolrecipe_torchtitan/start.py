"""Where a stage starts from: a new model, another stage's checkpoint, or a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch  # noqa: TID253
from attrs import frozen

from smolrecipe import StageContext, StageError, StageRef
from smolrecipe.stage import CHECKPOINTS_FOLDER, MODEL_FOLDER
from smolrecipe_torchtitan.checkpoints import steps_of
from smolrecipe_torchtitan.options import PretrainOptions
from smolrecipe_torchtitan.sealed import SEAL, DamagedCheckpointError, read_contents

POSITION = "dataloader.position"
"""The value of a checkpoint that says how far each data source had been read: pairs of its name and a count."""

NOT_WEIGHTS = ("optimizer.", "lr_scheduler.", "train_state.", "dataloader.")

Shapes = Mapping[str, tuple[int, ...]]
"""Parameter name -> shape of the whole parameter."""


@frozen(kw_only=True)
class Start:
    """What a stage takes over. Without ``checkpoint`` and ``hugging_face`` it starts with a new model.

    ``ref`` is what the recipe calls it, ``step`` counts the optimizer steps of the trajectory before this stage,
    ``position`` is what the data goes on from.
    """

    ref: StageRef | None = None
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
    if not any(is_ours(path) for path in steps_of(artifact / CHECKPOINTS_FOLDER).values()):
        if options.carry == "everything":
            raise StageError(
                f"carry: everything needs the checkpoint of a pretraining stage, and '{options.from_.stage}' published "
                "none: use carry: weights"
            )
        return Start(ref=options.from_, hugging_face=context.input(options.from_))
    if options.from_.checkpoint and _is_model_alone(artifact / CHECKPOINTS_FOLDER / options.from_.checkpoint):
        if options.carry == "everything":
            raise StageError(
                f"carry: everything needs the whole checkpoint of a stage, and '{options.from_}' is a model alone: use "
                f"carry: weights, or from: {options.from_.stage}"
            )
        return Start(ref=options.from_, hugging_face=context.input(options.from_))
    step, checkpoint = _find_checkpoint(options.from_, context)
    if options.carry == "weights":
        return Start(ref=options.from_, checkpoint=checkpoint)
    return Start(
        ref=options.from_,
        checkpoint=checkpoint,
        everything=True,
        step=step,
        position=_position(checkpoint, options.from_),
    )


def is_ours(checkpoint: Path) -> bool:
    """Whether a folder is a checkpoint of pretraining, whole or not."""
    return (checkpoint / SEAL).exists() or any(checkpoint.glob("process-*.safetensors"))


def _is_model_alone(checkpoint: Path) -> bool:
    """Whether a model was published of a step whose checkpoint is not there any more."""
    return (checkpoint / MODEL_FOLDER).is_dir() and not is_ours(checkpoint)


def _find_checkpoint(ref: StageRef, context: StageContext) -> tuple[int, Path]:
    folder = context.input(StageRef(ref.stage), CHECKPOINTS_FOLDER)
    found = {step: path for step, path in steps_of(folder).items() if is_ours(path)}
    if ref.checkpoint:
        found = {step: path for step, path in found.items() if path.name == ref.checkpoint}
    if not found:
        wanted = f"'{ref.checkpoint}' of stage '{ref.stage}'" if ref.checkpoint else f"of stage '{ref.stage}'"
        there = ", ".join(f"'{path.name}'" for path in steps_of(folder).values()) or "none"
        raise StageError(f"there is no checkpoint {wanted} that training can start from; there are: {there}")
    return max(found.items())


def _position(checkpoint: Path, ref: StageRef) -> Mapping[str, int]:
    try:
        position = read_contents(checkpoint).values.get(POSITION)
    except DamagedCheckpointError as error:
        raise damaged(checkpoint, ref, str(error)) from None
    if not isinstance(position, list) or not all(
        isinstance(pair, list) and [type(entry) for entry in pair] == [str, int] for pair in position
    ):
        raise damaged(checkpoint, ref, f"'{SEAL}' does not say how far its data was read")
    return dict(position)


def damaged(checkpoint: Path, ref: StageRef | None, damage: str) -> StageError:
    """The error for a published checkpoint that cannot be started from. There is no other: each was asked for."""
    return StageError(
        f"the checkpoint '{checkpoint.name}' that stage '{ref and ref.stage}' published is damaged: {damage}. "
        f"Delete {checkpoint.parent.parent} and run again: that makes the stage anew"
    )


def check_weights(checkpoint: Path, parameters: Shapes) -> None:
    """Refuse a checkpoint whose tensors are not exactly the model's.

    Raises:
        StageError: naming the tensors that are missing, too many or of another shape.
    """
    tensors = read_contents(checkpoint).tensors
    held = {name: tensor.shape for name, tensor in tensors.items() if not name.startswith(NOT_WEIGHTS)}
    refuse_misfits(held, parameters, f"checkpoint {checkpoint}")


def check_optimizer(checkpoint: Path, needed: Mapping[str, Any]) -> None:
    """Refuse to carry on another optimizer's state. ``needed`` is the state that this stage's optimizer has.

    Raises:
        StageError: naming what the optimizer keeps and the checkpoint does not have, or has otherwise.
    """
    contents = read_contents(checkpoint)

    def is_there(name: str, value: Any) -> bool:
        if not isinstance(value, torch.Tensor):
            return name in contents.values
        return name in contents.tensors and contents.tensors[name].shape == tuple(value.shape)

    missing = sorted(name for name, value in needed.items() if not is_there(f"optimizer.{name}", value))
    if missing:
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
