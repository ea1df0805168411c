"""Whether a folder's tensors are exactly those of the model that its configuration describes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch  # noqa: TID253
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM  # noqa: TID253

from smolrecipe import Proof, untrusted
from smolrecipe.checkpoint import StoredTensor, check_checkpoint, misfits
from smolrecipe.stage import MODEL_FOLDER


def build(folder: Path) -> Any:
    """The model of a folder's configuration, without weights."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def unlike(folder: Path, held: Mapping[str, StoredTensor]) -> tuple[list[str], dict[str, str]]:
    """What keeps a folder's tensors from being its model's, and which of those are tied to another, name -> other."""
    found, tied = misfits(folder, held, build)
    if loose := sorted(name for name in tied.keys() & held.keys() if not _same(held, name, tied[name])):
        found.append(f"ties {', '.join(loose)} to {tied[loose[0]]} and holds other values for it")
    return found, tied


def proofs(artifact: Path) -> Iterator[Proof]:
    """The same of a published artifact."""
    folder = artifact / MODEL_FOLDER
    held = check_checkpoint(folder)
    wrong, _ = unlike(folder, held)
    yield Proof(
        claim="tensors are those of transformers' class",
        holds=not wrong,
        measured=f"{len(held):,} tensors",
        note="; ".join(wrong),
    )


def _same(held: Mapping[str, StoredTensor], name: str, other: str) -> bool:
    if other not in held or held[name].shape != held[other].shape:
        return False
    values = []
    for tensor in (name, other):
        with (
            untrusted(f"{held[tensor].file} is no whole safetensors file"),
            safe_open(held[tensor].file, framework="pt") as file,
        ):
            values.append(file.get_tensor(tensor))
    return torch.equal(*values)
