"""The header of a safetensors file, read without an engine and trusted in nothing.

The format: https://github.com/huggingface/safetensors, "Format". Eight bytes of length, a JSON mapping of names to
dtype, shape and place, and the bytes, without holes or overlaps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attrs import frozen

from smolrecipe.errors import StageError
from smolrecipe.strict_json import parse_json, printable

_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
"""The dtypes of safetensors, with the bits of one number."""

_MOST_HEADER_BYTES = 10**8
"""The largest header that the safetensors library reads, too."""
_MOST_DIMENSIONS = 64
"""As in torch; multiplying a million of them would take hours."""


@frozen(kw_only=True)
class StoredTensor:
    """A tensor as a safetensors file declares it; ``dtype`` is that format's name, ``BF16``."""

    dtype: str
    shape: tuple[int, ...]
    file: Path


def read_header(file: Path) -> dict[str, StoredTensor]:
    """The tensors that a safetensors file declares, whose bytes are all there and nobody else's.

    Raises:
        StageError: when it is no whole safetensors file.
    """
    try:
        return dict(_declared(file))
    except ValueError as error:
        words = str(error).removeprefix(str(file)).strip()
        raise StageError(f"{file} is no whole safetensors file ({words}): fetch it again") from None


def shape_text(shape: tuple[int, ...]) -> str:
    """``64 x 32``."""
    return " x ".join(map(str, shape)) or "a single number"


def _declared(file: Path) -> Iterator[tuple[str, StoredTensor]]:
    """Name and tensor of each part of a safetensors file, in the order in which they lie there."""
    with _opened(file) as opened:
        size = opened.seek(0, 2)
        opened.seek(0)
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or length > size - 8:
            raise ValueError("it is cut short")
        if length > _MOST_HEADER_BYTES:
            raise ValueError(f"its header has {length:,} bytes")
        raw = parse_json(opened.read(length), "its header")
    if not isinstance(raw, dict):
        raise ValueError("its header is no mapping")
    metadata = raw.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata are no texts")
    end = 0
    for name, value in sorted(raw.items(), key=_offset):
        tensor, begin, after = _tensor(name, value, file)
        if begin != end:
            raise ValueError(f"{printable(name)} begins at byte {begin:,}, where byte {end:,} comes next")
        end = after
        yield name, tensor
    if end != size - 8 - length:
        raise ValueError(f"its tensors take {end:,} bytes, and {size - 8 - length:,} are there")


def _opened(file: Path) -> Any:
    if not file.is_file():
        raise ValueError("it is no regular file")
    try:
        return file.open("rb")
    except OSError as error:
        raise ValueError(f"it cannot be read: {error.strerror}") from None


def _offset(item: tuple[str, Any]) -> tuple[int, int]:
    offsets = item[1].get("data_offsets") if isinstance(item[1], dict) else None
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
        raise ValueError(f"{printable(item[0])} says not where it lies")
    return offsets[0], offsets[1]


def _tensor(name: str, value: Any, file: Path) -> tuple[StoredTensor, int, int]:
    begin, end = _offset((name, value))
    dtype, shape = value.get("dtype"), value.get("shape")
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise ValueError(f"{printable(name)} has a dtype {printable(repr(dtype))}, which there is not")
    if not isinstance(shape, list) or len(shape) > _MOST_DIMENSIONS or not all(map(_is_size, shape)):
        raise ValueError(f"{printable(name)} has no shape")
    if end < begin or 8 * (end - begin) != math.prod(shape) * _BITS[dtype]:
        raise ValueError(
            f"{printable(name)} of shape {shape_text(tuple(shape))} does not fill its {end - begin:,} bytes"
        )
    return StoredTensor(dtype=dtype, shape=tuple(shape), file=file), begin, end


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
