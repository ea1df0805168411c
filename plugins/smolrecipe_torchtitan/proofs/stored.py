"""The tensors of a Hugging Face folder, read one at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch  # noqa: TID253
from safetensors import safe_open

DTYPES = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""safetensors' names of types -> torch's and ``config.json``'s."""


class StoredTensors:
    """What lies in the safetensors files that transformers loads from a folder; nothing is kept in memory."""

    def __init__(self, folder: Path) -> None:
        """Open the files. A folder without any has no tensors."""
        self._file_of: dict[str, Any] = {}
        for path in _files(folder):
            file = safe_open(path, framework="pt")
            self._file_of.update(dict.fromkeys(file.keys(), file))

    @property
    def names(self) -> list[str]:
        """The names of all tensors, sorted."""
        return sorted(self._file_of)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, without reading it."""
        return tuple(self._file_of[name].get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """A tensor's type, as ``config.json`` names it, without reading it."""
        kind = self._file_of[name].get_slice(name).get_dtype()
        return DTYPES.get(kind, kind)

    def read(self, name: str) -> torch.Tensor:
        """The tensor."""
        tensor: torch.Tensor = self._file_of[name].get_tensor(name)
        return tensor


def _files(folder: Path) -> list[Path]:
    """The files that transformers would load: one, or those of an index; all there are where it finds neither."""
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    return sorted(folder.glob("*.safetensors"))
