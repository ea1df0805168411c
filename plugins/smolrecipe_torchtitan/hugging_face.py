"""Hugging Face checkpoints: weights in, weights and configuration out."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch  # noqa: TID253
from safetensors import safe_open
from safetensors.torch import save_file
from torch.distributed.checkpoint import HuggingFaceStorageReader  # noqa: TID253
from torchtitan.protocols.state_dict_adapter import BaseStateDictAdapter  # noqa: TID253

from smolrecipe import HfConfig, StageError
from smolrecipe_torchtitan.sealed import read_tensors
from smolrecipe_torchtitan.start import Shapes, refuse_misfits
from smolrecipe_torchtitan.tokenizer import TokenizerFacts, copy_tokenizer

MAX_SHARD_BYTES = 5 * 10**9
"""Size of a safetensors file, as transformers' ``save_pretrained`` has it."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def hf_names(parameters: Shapes, templates: Mapping[str, str], *, tied: bool) -> dict[str, str]:
    """torchtitan's name of every parameter -> its name in a Hugging Face checkpoint.

    ``templates`` has ``{}`` for the layer's index. Tied embeddings are stored once, as the input embedding.

    Raises:
        StageError: for a parameter without a name there.
    """
    names = {}
    for name in parameters:
        if tied and name == "lm_head.weight":
            continue
        layer = re.search(r"(?<=layers\.)\d+(?=\.)", name)
        template = templates.get(re.sub(r"(?<=layers\.)\d+(?=\.)", "{}", name, count=1))
        if template is None:
            raise StageError(
                f"parameter '{name}' has no name in Hugging Face checkpoints: the model component that brings it must "
                "add one to draft.hf_parameters, or have no to_hf"
            )
        names[name] = template.format(layer[0]) if layer else template
    return names


class RecipeAdapter(BaseStateDictAdapter):
    """torchtitan's state dictionaries with Hugging Face's names and back; nothing but names changes."""

    def __init__(self, names: Mapping[str, str], model_config: Any = None, hf_assets_path: str | None = None) -> None:
        self.fqn_to_index_mapping = None
        self.hf_assets_path = hf_assets_path
        self.to_names = dict(names)
        self.from_names = {hf: titan for titan, hf in names.items()}

    def to_hf(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Rename to Hugging Face's names, leaving out what is stored under another (tied embeddings)."""
        return {self.to_names[name]: value for name, value in state_dict.items() if name in self.to_names}

    def from_hf(self, hf_state_dict: dict[str, Any]) -> dict[str, Any]:
        """Rename to torchtitan's names."""
        return {self.from_names[name]: value for name, value in hf_state_dict.items()}

    def get_hf_storage_reader(self, path: str, from_quantized: bool = False) -> HuggingFaceStorageReader:
        """What reads the safetensors files in ``path``."""
        return HuggingFaceStorageReader(path)


def check_import(folder: Path, names: Mapping[str, str], parameters: Shapes) -> None:
    """Refuse a Hugging Face folder whose tensors are not exactly the model's.

    Raises:
        StageError: naming the tensors that are missing, too many or of another shape.
    """
    held: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            held.update((name, tuple(file.get_slice(name).get_shape())) for name in file.keys())  # noqa: SIM118
    if not held:
        raise StageError(f"there are no safetensors files in {folder}")
    refuse_misfits(held, {hf: parameters[titan] for titan, hf in names.items()}, f"checkpoint {folder}")


def config_differences(folder: Path, config: HfConfig) -> dict[str, tuple[Any, Any]]:
    """Keys of the folder's ``config.json`` that this stage's model has otherwise: key -> (there, here)."""
    there = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {key: (there[key], here) for key, here in config.items() if key in there and there[key] != here}


def export_model(
    checkpoint: Path,
    target: Path,
    *,
    names: Mapping[str, str],
    config: HfConfig,
    dtype: Literal["float32", "bfloat16"],
    tokenizer_folder: Path,
    tokenizer: TokenizerFacts,
) -> None:
    """Write a Hugging Face checkpoint from a stage's checkpoint: weights, configuration and tokenizer.

    Reads the files, not the running model, so one process does it alone whatever the parallel layout, with the whole
    model in its main memory once.
    """
    if target.exists():  # of an export that was cut short
        shutil.rmtree(target)
    target.mkdir(parents=True)
    weights = read_tensors(checkpoint, names)
    _save_sharded({hf: weights.pop(titan).to(DTYPES[dtype]) for titan, hf in names.items()}, target)
    special = {f"{name}_id": number for name, number in tokenizer.special.items()}
    _write_json(target / "config.json", {**config, "dtype": dtype, **special})
    _write_json(target / "generation_config.json", {key: value for key, value in special.items() if value is not None})
    copy_tokenizer(tokenizer_folder, target)


def _save_sharded(weights: Mapping[str, torch.Tensor], target: Path) -> None:
    """Write safetensors files of at most ``MAX_SHARD_BYTES`` each, with an index where there are several."""
    shards: list[dict[str, torch.Tensor]] = [{}]
    size = total = 0
    for name, tensor in weights.items():
        if shards[-1] and size + tensor.nbytes > MAX_SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
        total += tensor.nbytes
    if len(shards) == 1:
        save_file(shards[0], target / "model.safetensors", metadata={"format": "pt"})
        return
    files = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    for file, shard in zip(files, shards, strict=True):
        save_file(shard, target / file, metadata={"format": "pt"})
    where = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
    _write_json(target / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
