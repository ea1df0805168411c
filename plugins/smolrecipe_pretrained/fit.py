"""Whether a folder's tensors are exactly those of the model that its configuration describes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch  # noqa: TID253
from attrs import frozen
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM  # noqa: TID253

from smolrecipe import Proof, StageError
from smolrecipe.stage import MODEL_FOLDER

INDEX_FILE = "model.safetensors.index.json"
_NAMED = 5


@frozen(kw_only=True)
class Tensor:
    """A tensor as a file declares it."""

    shape: tuple[int, ...]
    dtype: str
    file: Path


def held_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor in a folder's safetensors files, by name, from their headers alone.

    Raises:
        StageError: when there are none, a file is cut short or damaged, two files hold one name, or the index names
            files or tensors that are not there.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = [file.name for file in folder.glob("*.bin")]
        advice = f": {pickles[0]} is a pickle, which is never loaded; save it as safetensors" if pickles else ""
        raise StageError(f"{folder} has no safetensors files{advice}")
    held: dict[str, Tensor] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    if name in held:
                        raise StageError(f"{folder}: tensor {name} is in {held[name].file.name} and in {path.name}")
                    part = file.get_slice(name)
                    held[name] = Tensor(shape=tuple(part.get_shape()), dtype=str(part.get_dtype()), file=path)
        except (SafetensorError, OSError) as error:
            raise StageError(f"{path} is no whole safetensors file ({error}): fetch it again") from None
    _check_index(folder, held)
    return held


def _check_index(folder: Path, held: Mapping[str, Tensor]) -> None:
    index = folder / INDEX_FILE
    if not index.is_file():
        return
    where: Mapping[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    lost = sorted(name for name, file in where.items() if name not in held or held[name].file.name != file)
    if lost:
        raise StageError(
            f"{folder}: {INDEX_FILE} says that {where[lost[0]]} holds {_few(lost)}, which it does not: "
            "a file is missing or of another model"
        )


def wanted_tensors(folder: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """The tensors of the configuration's model, name -> shape, and which of them are tied to another, name -> other.

    Raises:
        StageError: when transformers knows no such causal language model, or only code from elsewhere would.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StageError(f"transformers makes no model from {folder / 'config.json'}: {_first_line(error)}") from None
    state = model.state_dict()
    tied: dict[str, str] = {}
    if config.tie_word_embeddings:
        by_identity: dict[int, str] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            first = by_identity.setdefault(id(parameter), name)
            if first != name:
                tied[name] = first
    return {name: tuple(value.shape) for name, value in state.items()}, tied


def misfits(held: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], tied: Mapping[str, str]) -> list[str]:
    """What keeps the held tensors from being the wanted ones, each as the end of a sentence about the folder."""
    found = []
    if lacking := sorted(wanted.keys() - held.keys() - tied.keys()):
        found.append(f"lacks {_few(lacking)}")
    if extra := sorted(held.keys() - wanted.keys()):
        found.append(f"has {_few(extra)}, which the model of its config.json does not have")
    if loose := sorted(name for name in tied.keys() & held.keys() if not _same(held, name, tied[name])):
        found.append(f"ties {_few(loose)} to {tied[loose[0]]} and holds other values for it")
    misshapen = [
        f"{name} of shape {_shape(held[name].shape)} instead of {_shape(wanted[name])}"
        for name in sorted(held.keys() & wanted.keys())
        if held[name].shape != wanted[name]
    ]
    if misshapen:
        found.append(f"has {_few(misshapen)}")
    return found


def proofs(artifact: Path) -> Iterator[Proof]:
    """The same of a published artifact."""
    folder = artifact / MODEL_FOLDER
    held = held_tensors(folder)
    wanted, tied = wanted_tensors(folder)
    wrong = misfits(held, wanted, tied)
    yield Proof(
        claim="tensors are those of transformers' class",
        holds=not wrong,
        measured=f"{len(held):,} tensors",
        note="; ".join(wrong),
    )


def _same(held: Mapping[str, Tensor], name: str, other: str) -> bool:
    if other not in held or held[name].shape != held[other].shape:
        return False
    values = []
    for tensor in (name, other):
        with safe_open(held[tensor].file, framework="pt") as file:
            values.append(file.get_tensor(tensor))
    return torch.equal(*values)


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single number"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
