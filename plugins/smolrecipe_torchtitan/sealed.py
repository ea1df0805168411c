"""The format of a checkpoint: tensors in safetensors files, everything else in one JSON file that seals it.

::

    checkpoints/step-<n>/process-<rank>.safetensors    the tensors, or parts of them, that the process wrote
                         checkpoint.json               where each part lies, all other values, and every file's sha256

A model that is published of the same step lies beside them, in ``model``, and is no part of the checkpoint.

``checkpoint.json`` is written last and renamed into place, and has a checksum of its own: a checkpoint is whole if it
is there and every file is what it says. Nothing in it is a pickle: reading a checkpoint runs no code, whoever wrote it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch  # noqa: TID253
from attrs import frozen
from safetensors import SafetensorError, safe_open

from smolrecipe import StageError
from smolrecipe.stage import MODEL_FOLDER

SEAL = "checkpoint.json"

STEP = "train_state.step"
"""The value that is the step of the trajectory that was saved."""

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""safetensors' names of types."""

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

UNSEALED = f"'{SEAL}' is missing"
"""What ``damage_of`` says of a checkpoint that was never finished, or has lost its seal."""

_FILE_NAME = re.compile(r"process-\d+\.safetensors")


class DamagedCheckpointError(StageError):
    """A checkpoint that is not what was written; the message says which file and how."""


Numbers = tuple[int, ...]


@frozen
class Chunk:
    """A part of a tensor: where it begins, its shape, and the file that has it."""

    offsets: Numbers
    shape: Numbers
    file: str

    def key(self, tensor: str) -> str:
        """Its name in the file."""
        return chunk_key(tensor, self.offsets)


@frozen
class SavedTensor:
    """A whole tensor, whose parts may lie in several files."""

    dtype: torch.dtype
    shape: Numbers
    chunks: tuple[Chunk, ...]


@frozen
class SavedFile:
    """A file as it was written."""

    size: int
    sha256: str


@frozen(kw_only=True)
class Contents:
    """What a checkpoint holds. ``values`` are numbers, texts, None, and lists and tuples of them."""

    tensors: Mapping[str, SavedTensor]
    values: Mapping[str, Any]
    files: Mapping[str, SavedFile]


def chunk_key(tensor: str, offsets: Iterable[int]) -> str:
    """The name of a tensor's part in a safetensors file."""
    return f"{tensor}@{','.join(map(str, offsets))}"


# --- values -----------------------------------------------------------------------------------------------------------


def to_plain(name: str, value: Any) -> Any:
    """A value as JSON has it.

    Raises:
        StageError: for a value that only a pickle could hold.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [to_plain(name, entry) for entry in value]
    if isinstance(value, tuple):
        return {"tuple": [to_plain(name, entry) for entry in value]}
    raise StageError(
        f"'{name}' is a {type(value).__name__}, which no checkpoint can hold: the state of optimizers and schedules "
        "may have tensors, numbers, texts, None, and lists and tuples of them"
    )


def from_plain(value: Any) -> Any:
    """The value that ``to_plain`` was given."""
    if isinstance(value, list):
        return [from_plain(entry) for entry in value]
    if isinstance(value, dict):
        return tuple(from_plain(entry) for entry in value["tuple"])
    return value


# --- the sealing file -------------------------------------------------------------------------------------------------


def to_seal(contents: Contents) -> bytes:
    """The bytes of ``checkpoint.json``."""
    return _seal(
        {
            "tensors": {
                name: {
                    "dtype": DTYPE_NAMES[tensor.dtype],
                    "shape": tensor.shape,
                    "chunks": [[chunk.offsets, chunk.shape, chunk.file] for chunk in tensor.chunks],
                }
                for name, tensor in contents.tensors.items()
            },
            "values": {name: to_plain(name, value) for name, value in contents.values.items()},
            "files": {name: [file.size, file.sha256] for name, file in contents.files.items()},
        }
    )


def _seal(content: Any) -> bytes:
    body = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return f'{{"sha256":"{hashlib.sha256(body.encode()).hexdigest()}","content":{body}}}\n'.encode()


def read_contents(folder: Path) -> Contents:
    """What a checkpoint says that it holds.

    Raises:
        DamagedCheckpointError: when it does not say so in its own format, or not in the bytes that were written.
    """
    try:
        raw = (folder / SEAL).read_bytes()
        content = json.loads(raw)["content"]
        if _seal(content) != raw:
            raise ValueError("the checksum is another")
        return _parse(content)
    except FileNotFoundError:
        raise DamagedCheckpointError(UNSEALED) from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DamagedCheckpointError(f"'{SEAL}' is not what was written ({type(error).__name__}: {error})") from None


def _parse(content: Any) -> Contents:
    files = {}
    for name, (size, sha256) in content["files"].items():
        if not _FILE_NAME.fullmatch(name):
            raise ValueError(f"no file of a checkpoint is called {name!r}")
        files[name] = SavedFile(_numbers([size])[0], str(sha256))
    tensors = {name: _parse_tensor(name, entry) for name, entry in content["tensors"].items()}
    needed: dict[str, int] = dict.fromkeys(files, 0)
    for tensor in tensors.values():
        for chunk in tensor.chunks:
            needed[chunk.file] += math.prod(chunk.shape) * tensor.dtype.itemsize
    # So that nobody reserves memory for tensors that are only claimed.
    if short := [name for name, size in needed.items() if size > files[name].size]:
        raise ValueError(f"{short[0]} is too small for its tensors")
    values = {name: from_plain(value) for name, value in content["values"].items()}
    return Contents(tensors=tensors, values=values, files=files)


def _parse_tensor(name: str, entry: Any) -> SavedTensor:
    shape = _numbers(entry["shape"])
    chunks = tuple(Chunk(_numbers(offsets), _numbers(size), str(file)) for offsets, size, file in entry["chunks"])
    for chunk in chunks:
        if any(at + size > whole for at, size, whole in zip(chunk.offsets, chunk.shape, shape, strict=True)):
            raise ValueError(f"a part of {name} lies outside of it")
    if sum(math.prod(chunk.shape) for chunk in chunks) != math.prod(shape):
        raise ValueError(f"the parts of {name} are not the whole")
    return SavedTensor(DTYPES[entry["dtype"]], shape, chunks)


def _numbers(values: Any) -> Numbers:
    if not isinstance(values, list) or not all(type(value) is int and 0 <= value < 2**63 for value in values):
        raise ValueError(f"{values!r} are no sizes")
    return tuple(values)


# --- tensors ----------------------------------------------------------------------------------------------------------


class TensorFiles:
    """The safetensors files of a checkpoint, each opened once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, Any] = {}

    def read(self, chunk: Chunk, tensor: str, first: Sequence[int], shape: Sequence[int]) -> torch.Tensor:
        """A piece of a tensor's part, which begins at ``first`` in that part.

        Raises:
            DamagedCheckpointError: when the file does not have that part.
        """
        try:
            if chunk.file not in self._open:
                self._open[chunk.file] = safe_open(self._folder / chunk.file, framework="pt")
            held = self._open[chunk.file].get_slice(chunk.key(tensor))
            if tuple(held.get_shape()) != chunk.shape:
                raise DamagedCheckpointError(f"'{chunk.file}' has another shape of {tensor}")
            if not chunk.shape:
                whole: torch.Tensor = self._open[chunk.file].get_tensor(chunk.key(tensor))
                return whole
            piece: torch.Tensor = held[
                tuple(slice(start, start + size) for start, size in zip(first, shape, strict=True))
            ]
            return piece
        except (OSError, SafetensorError) as error:
            raise DamagedCheckpointError(f"'{chunk.file}' is not what was written ({error})") from None


def read_tensors(folder: Path, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Whole tensors by name, in the type in which they were saved; names that the checkpoint lacks are left out.

    Raises:
        DamagedCheckpointError: for files that are not what was written, as far as that shows.
    """
    held = read_contents(folder).tensors
    files = TensorFiles(folder)
    found = {}
    for name in names:
        if (tensor := held.get(name)) is None:
            continue
        found[name] = torch.empty(tensor.shape, dtype=tensor.dtype)
        for chunk in tensor.chunks:
            place = tuple(slice(at, at + size) for at, size in zip(chunk.offsets, chunk.shape, strict=True))
            found[name][place] = files.read(chunk, name, [0] * len(chunk.shape), chunk.shape)
    return found


# --- whole or not -----------------------------------------------------------------------------------------------------


def damage_of(folder: Path, share: int = 0, shares: int = 1) -> str | None:
    """What is wrong with a checkpoint, in words that name the file; nothing if it is whole.

    ``shares`` processes may each look at a part of the files; the checkpoint is whole when all of them find nothing.
    """
    try:
        contents = read_contents(folder)
        if folder.name != f"step-{contents.values.get(STEP)}":
            return f"'{SEAL}' is of step {contents.values.get(STEP)}"
        there = {path.name for path in folder.iterdir()}
        if more := sorted(there - contents.files.keys() - {SEAL, MODEL_FOLDER}):
            return f"'{more[0]}' was not written with it"
        for name in sorted(contents.files)[share::shares]:
            if name not in there:
                return f"'{name}' is missing"
            with (folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != contents.files[name].sha256:
                    return f"'{name}' is not what was written"
    except DamagedCheckpointError as error:
        return str(error)
    except OSError as error:
        return f"'{Path(str(error.filename)).name}' cannot be read: {error.strerror}"
    return None
