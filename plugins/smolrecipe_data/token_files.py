"""datatrove's token files, memory-mapped: one split of one source as one long row of tokens.

A ``.ds`` file holds little-endian token ids of 2 or 4 bytes, its ``.index`` the ends of its documents as 64-bit token
counts, its ``.metadata`` the tokenizer's name and the bytes per token (``name|2``), then the number of tokens.
"""

from __future__ import annotations

import functools
import mmap
from bisect import bisect_right
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen

from smolrecipe import StageError

ABOUT_FILE = "tokens.json"
"""In the tokens folder: which tokenizer the tokens are of."""

SOURCE_FILE = "source.json"
"""In a source's folder: its counts; written when the source is finished."""

Array = np.ndarray[Any, np.dtype[np.int64]]

_DTYPES: dict[int, np.dtype[Any]] = {2: np.dtype("<u2"), 4: np.dtype("<u4")}
_ENDS_DTYPE = np.dtype("<i8")
_MAPS_KEPT = 256


class TokenStream:
    """The token files of a folder, by name, as if they were one: ``tokens`` tokens in ``documents`` documents.

    Tokens are addressed by their number in the whole. Files are mapped when they are read, so that a stream is cheap to
    open and to pickle.
    """

    def __init__(self, folder: Path) -> None:
        """Open the files.

        Raises:
            StageError: when there are none, or one is not whole.
        """
        paths = sorted(folder.glob("*.ds"))
        if not paths:
            raise StageError(f"there are no token files (*.ds) in {folder}")
        self._files = [_open(path) for path in paths]
        self._starts = [0]
        for file in self._files:
            self._starts.append(self._starts[-1] + file.length)
        self.tokens = self._starts[-1]
        self.documents = sum(file.documents for file in self._files)

    def read_into(self, target: Array, start: int) -> None:
        """Fill ``target``, shape (count,), with the tokens from number ``start`` on."""
        filled = 0
        while filled < len(target):
            index = bisect_right(self._starts, start + filled) - 1
            offset = start + filled - self._starts[index]
            part = self._files[index].tokens[offset : offset + len(target) - filled]
            target[filled : filled + len(part)] = part
            filled += len(part)

    def document_starts(self, start: int, stop: int) -> list[int]:
        """The token numbers n, start < n < stop, at which a document starts."""
        found: list[int] = []
        index = bisect_right(self._starts, start) - 1
        while index < len(self._files) and self._starts[index] < stop:
            base, ends = self._starts[index], self._files[index].ends
            first, last = np.searchsorted(ends, (start - base + 1, stop - base))
            found.extend((ends[first:last] + base).tolist())
            index += 1
        return found

    def document_ends_from(self, targets: Array) -> Array:
        """For each token number of ``targets``, all below ``tokens``, the first document end that is above it.

        A document end is the number of the first token behind the document.
        """
        found = np.empty_like(targets)
        for base, file in zip(self._starts, self._files, strict=False):
            here = (targets >= base) & (targets < base + file.length)
            found[here] = file.ends[np.searchsorted(file.ends, targets[here] - base, side="right")] + base
        return found


@frozen
class _TokenFile:
    """One ``.ds`` file with its index."""

    path: Path
    dtype: Any
    length: int
    documents: int

    @property
    def tokens(self) -> Any:
        return _map(self.path, self.dtype)

    @property
    def ends(self) -> Any:
        return _map(_beside(self.path, ".index"), _ENDS_DTYPE)


def _open(path: Path) -> _TokenFile:
    """The file, found whole: datatrove's three files agree on its length."""
    try:
        tokenizer, count, *_ = _beside(path, ".metadata").read_text().split("\n")
        dtype, length = _DTYPES[int(tokenizer.rpartition("|")[2])], int(count)
        found = path.stat().st_size / dtype.itemsize
        documents = _beside(path, ".index").stat().st_size // _ENDS_DTYPE.itemsize
    except (OSError, ValueError, KeyError) as error:
        raise StageError(f"{path}: its .metadata or .index is missing or is not datatrove's ({error!r})") from None
    file = _TokenFile(path, dtype, length, documents)
    if not documents or not length or found != length or int(file.ends[-1]) != length:
        raise StageError(f"{path} is not whole: it has {found:g} tokens where {length} were written. Tokenise again")
    return file


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


@functools.lru_cache(maxsize=_MAPS_KEPT)
def _map(path: Path, dtype: Any) -> Any:
    """The file as a read-only array; a plain array over the map, which numpy slices faster than a memmap.

    A map holds a file open, and a process may have some hundred or thousand open, so that only the latest are kept.
    """
    with path.open("rb") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype)
