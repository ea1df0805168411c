"""A Hugging Face checkpoint on disk, looked at without an engine: what is in it, and what nobody should load.

A folder may come from anywhere. Before a library is given it, its JSON files are read strictly, the headers of its
safetensors are checked, and what would have a library read another place, run code or build a model without end is
refused. Pickles (``*.bin``, ``*.pt``) and code that lie in it are nobody's business: they are never opened.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from smolrecipe.errors import StageError
from smolrecipe.stored_tensors import StoredTensor, read_header, shape_text
from smolrecipe.strict_json import printable, read_bytes, read_mapping
from smolrecipe.untrusted import untrusted

CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

LONGEST_SECONDS = 120.0
"""For what takes a second: building a model without weights, loading a tokenizer, rendering a conversation."""

MODEL_GIB = 8.0
"""Memory that a model without weights may take; it takes megabytes."""

TEMPLATE_GIB = 2.0
"""Memory that rendering a chat template may take: transformers has a sandbox for it, which can still fill memory."""

COMPANIONS = (".json", ".jinja", ".txt", ".model")
"""Endings of the files of a checkpoint besides its weights: configurations, tokenizers, chat templates."""

_OTHER_WEIGHTS = "transformers_weights"
_ADAPTER_FILE = "adapter_config.json"
_MOST_CONFIG_BYTES = 2**24
_MOST_TEMPLATE_BYTES = 2**20
_NAMED = 5

_LAYERS = {"num_hidden_layers", "num_layers", "n_layer", "n_layers"}
"""Keys of a config.json that say how many layers are built."""
_WIDTHS = {
    "vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size", "head_dim", "num_attention_heads",
    "num_key_value_heads", "n_embd", "n_head", "n_inner", "d_model", "d_ff", "ffn_dim", "num_experts",
    "num_local_experts", "n_routed_experts", "embedding_size",
}  # fmt: skip
"""Keys that say how large a dimension of some tensor is, or a part of one."""


def check_checkpoint(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of a folder that a library may be given, by name.

    Raises:
        StageError: naming the file, where one is damaged, ambiguous, or would have a library do more than load it.
    """
    try:
        config = read_mapping(folder / CONFIG_FILE, most_bytes=_MOST_CONFIG_BYTES)
    except ValueError as error:
        raise StageError(str(error)) from None
    if (folder / _ADAPTER_FILE).exists():
        raise StageError(
            f"{folder / _ADAPTER_FILE} would have another model loaded, or this one changed: merge the adapter into "
            "its model, and take that folder"
        )
    if config.get("quantization_config") is not None:
        raise StageError(f"{folder / CONFIG_FILE}: the model is quantized; take the one that was quantized")
    if config.get(_OTHER_WEIGHTS) is not None:
        raise StageError(
            f"{folder / CONFIG_FILE}: {_OTHER_WEIGHTS} names other weights than those beside it: remove it"
        )
    for path, value in _implementations(config, ()):
        raise StageError(
            f"{folder / CONFIG_FILE}: {path} is {printable(str(value))}, code from elsewhere: remove that key"
        )
    tensors = stored_tensors(folder)
    _check_sizes(folder / CONFIG_FILE, config, tensors)
    check_tokenizer_files(folder)
    return tensors


def check_tokenizer_files(folder: Path) -> None:
    """Check the files of a tokenizer, those that are there, and generation settings.

    Raises:
        StageError: naming the file, where one is damaged or would have another place read.
    """
    try:
        for name in ("special_tokens_map.json", "added_tokens.json", GENERATION_FILE, "tokenizer.json"):
            if (folder / name).exists():
                content = read_mapping(folder / name)
                if name == GENERATION_FILE:
                    _check_ids(folder / name, content)
        if (settings := folder / "tokenizer_config.json").exists():
            content = read_mapping(settings, most_bytes=_MOST_CONFIG_BYTES)
            names = content.get("fast_tokenizer_files") or []
            outside = not isinstance(names, list) or any("/" in str(name) for name in names)
            if outside or content.get("init_inputs"):
                key = "fast_tokenizer_files" if outside else "init_inputs"
                raise ValueError(f"{settings}: {key} has files read that are not the tokenizer's: remove that key")
        for template in [folder / "chat_template.jinja", *sorted(folder.glob("*_templates/*.jinja"))]:
            if template.exists():
                read_bytes(template, most_bytes=_MOST_TEMPLATE_BYTES).decode()
    except UnicodeDecodeError as error:
        raise StageError(f"{template} is not UTF-8 text (byte {error.start:,})") from None
    except ValueError as error:
        raise StageError(str(error)) from None


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that the checkpoint consists of: what its index names, or the one file.

    Raises:
        StageError: when there are none, or it is not clear which.
    """
    single, index = folder / WEIGHTS_FILE, folder / INDEX_FILE
    if not index.exists():
        if not single.is_file():
            pickles = sorted(file.name for file in folder.glob("*.bin"))
            advice = f": {pickles[0]} is a pickle, which is never loaded; save it as safetensors" if pickles else ""
            raise StageError(f"{folder} has no safetensors files ({WEIGHTS_FILE} or {INDEX_FILE}){advice}")
        return [single]
    names = sorted({*_weight_map(index).values()})
    if names != [WEIGHTS_FILE] and single.exists():
        raise StageError(f"{folder} has {WEIGHTS_FILE} and {INDEX_FILE}: which of them is meant? Remove the other")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise StageError(
            f"{folder} lacks {_few(missing)}, which {INDEX_FILE} names: a file is missing or of another model"
        )
    return [folder / name for name in names]


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of a checkpoint by name, from the headers of its safetensors files.

    Raises:
        StageError: when a file is damaged, two hold one name, or the index has another one for a tensor.
    """
    held: dict[str, StoredTensor] = {}
    for file in weight_files(folder):
        for name, tensor in read_header(file).items():
            if name in held:
                raise StageError(f"{folder}: tensor {name} is in {held[name].file.name} and in {file.name}")
            held[name] = tensor
    if (index := folder / INDEX_FILE).exists():
        where = _weight_map(index)
        lost = sorted(name for name, file in where.items() if name not in held or held[name].file.name != file)
        if lost:
            raise StageError(
                f"{folder}: {INDEX_FILE} says that {where[lost[0]]} holds {_few(lost)}, which it does not: "
                "a file is missing or of another model"
            )
    return held


def companion_files(folder: Path) -> list[Path]:
    """The files of a checkpoint besides its weights, by name. Code, pickles and all else that lies there are none."""
    return [
        file
        for file in sorted(folder.iterdir())
        if file.name.endswith(COMPANIONS) and not file.name.endswith(".index.json") and file.is_file()
    ]


def misfits(
    folder: Path, held: Mapping[str, StoredTensor], build: Callable[[Path], Any]
) -> tuple[list[str], dict[str, str]]:
    """What keeps stored tensors from being those of their ``config.json``, found out without taking memory for them.

    Args:
        folder: the checkpoint's.
        held: its tensors.
        build: makes the model of the folder's configuration without weights, on torch's meta device.

    Returns:
        Ends of sentences about the folder, none where all fits; and which of the model's tensors are another of its
        own (tied embeddings), name -> other: a checkpoint may leave those out.

    Raises:
        StageError: when no model can be built of the configuration.
    """
    what = f"transformers makes no model from {folder / CONFIG_FILE}"
    with untrusted(what, seconds=LONGEST_SECONDS, gib=MODEL_GIB):
        model = build(folder)
        first: dict[int, str] = {}
        tied: dict[str, str] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if first.setdefault(id(parameter), name) != name:
                tied[name] = first[id(parameter)]
        wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    return list(_misfits(held, wanted, tied)), tied


def _misfits(
    held: Mapping[str, StoredTensor], wanted: Mapping[str, tuple[int, ...]], tied: Mapping[str, str]
) -> Iterator[str]:
    if lacking := sorted(wanted.keys() - held.keys() - tied.keys()):
        yield f"lacks {_few(lacking)}"
    if extra := sorted(held.keys() - wanted.keys()):
        yield f"has {_few(extra)}, which the model of its config.json does not have"
    misshapen = [
        f"{printable(name)} of shape {shape_text(held[name].shape)} instead of {shape_text(wanted[name])}"
        for name in sorted(held.keys() & wanted.keys())
        if held[name].shape != wanted[name]
    ]
    if misshapen:
        yield f"has {_few(misshapen)}"


def _weight_map(index: Path) -> Mapping[str, str]:
    """The index's own mapping of tensors to files that lie beside it."""
    try:
        content = read_mapping(index)
    except ValueError as error:
        raise StageError(str(error)) from None
    where = content.get("weight_map")
    if not isinstance(where, dict) or not where:
        raise StageError(f"{index} has no 'weight_map'")
    if not isinstance(content.get("metadata"), dict):
        raise StageError(f"{index} has no mapping 'metadata'")
    for name in where.values():
        if not isinstance(name, str) or not name.endswith(".safetensors") or "/" in name or not name.isprintable():
            raise StageError(f"{index} names {printable(json.dumps(name))}, which is no safetensors file beside it")
    return where


def _implementations(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Where a configuration asks for code of the Hub's to compute with."""
    if isinstance(value, dict):
        for key, item in value.items():
            if "implementation" in key and "/" in str(item):
                yield ".".join([*path, key]), item
            yield from _implementations(item, (*path, key))


def _check_ids(file: Path, content: Mapping[str, Any]) -> None:
    for key, value in content.items():
        ids = value if isinstance(value, list) else [value]
        if key.endswith("_token_id") and not all(item is None or isinstance(item, int) for item in ids):
            raise ValueError(f"{file}: {key} is {printable(repr(value))}, which is no token's number")


def _check_sizes(file: Path, config: Mapping[str, Any], tensors: Mapping[str, StoredTensor]) -> None:
    """Refuse what would be built for hours, or take more memory than the weights do."""
    largest = max((size for tensor in tensors.values() for size in tensor.shape), default=0)
    for key, value in _numbers(config):
        most, what = (len(tensors), "tensors there are") if key in _LAYERS else (largest, "their largest dimension is")
        if not 0 <= value <= most:
            raise StageError(f"{file}: {key} is {value:.4g}, which its weights do not bear out: {what} {most:,}")


def _numbers(config: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in config.items():
        if key in _LAYERS | _WIDTHS and isinstance(value, (int, float)) and not isinstance(value, bool):
            yield key, value
        elif isinstance(value, dict):
            yield from _numbers(value)


def _few(names: list[str]) -> str:
    shown = ", ".join(printable(name) for name in names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"
