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
_LARGEST_2_BYTE_VOCABULARY = 2**16
_MAPS_KEPT = 256
_LONGEST_METADATA = 2**12
_CHECKED_AT_ONCE = 2**22
"""How many tokens, and how many document ends, of a file are looked at when it is opened: milliseconds."""


class TokenStream:
    """The token files of a folder, by name, as if they were one: ``tokens`` tokens in ``documents`` documents.

    Tokens are addressed by their number in the whole. Files are mapped when they are read, so that a stream is cheap to
    open and to pickle. No number in a file is trusted: small files are checked when they are opened, of larger ones
    what is read, which raises a ``StageError`` that names the file.
    """

    def __init__(self, folder: Path, vocab_size: int | None = None) -> None:
        """Open the files, whose tokens are below ``vocab_size``; without it, whatever they are.

        Raises:
            StageError: when there are none, or one is not whole or not of that vocabulary.
        """
        paths = sorted(folder.glob("*.ds"))
        lost = {index.with_suffix("") for index in folder.glob("*.ds.index")} - {*paths}
        if lost:
            raise StageError(f"{min(lost)} is missing, whose index is there. Tokenise again")
        if not paths:
            raise StageError(f"there are no token files (*.ds) in {folder}")
        self._files = [_open(path, vocab_size) for path in paths]
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
            self._files[index].require_tokens(part, offset)
            target[filled : filled + len(part)] = part
            filled += len(part)

    def document_starts(self, start: int, stop: int) -> list[int]:
        """The token numbers n, start < n < stop, at which a document starts."""
        found: list[int] = []
        index = bisect_right(self._starts, start) - 1
        while index < len(self._files) and self._starts[index] < stop:
            base, ends = self._starts[index], self._files[index].ends
            first, last = np.searchsorted(ends, (start - base + 1, stop - base))
            inside = ends[first:last]
            self._files[index].require_ends(inside, start - base, stop - base)
            found.extend((inside + base).tolist())
            index += 1
        return found

    def document_ends_from(self, targets: Array) -> Array:
        """For each token number of ``targets``, all below ``tokens``, the first document end that is above it.

        A document end is the number of the first token behind the document.
        """
        found = np.empty_like(targets)
        for base, file in zip(self._starts, self._files, strict=False):
            here = (targets >= base) & (targets < base + file.length)
            wanted = targets[here] - base
            ends = file.ends[np.minimum(np.searchsorted(file.ends, wanted, side="right"), file.documents - 1)]
            if (ends <= wanted).any() or (ends > file.length).any():
                raise file.not_ascending()
            found[here] = ends + base
        return found

    def lengths(self) -> dict[int, int]:
        """How many documents there are of each length in tokens, their ends among these."""
        found: dict[int, int] = {}
        for file in self._files:
            for first in range(0, file.documents, _CHECKED_AT_ONCE):
                ends = file.ends[max(0, first - 1) : first + _CHECKED_AT_ONCE]
                lengths = np.diff(ends, prepend=0) if first == 0 else np.diff(ends)
                for length, count in zip(*np.unique(lengths, return_counts=True), strict=True):
                    found[int(length)] = found.get(int(length), 0) + int(count)
        return found


@frozen
class _TokenFile:
    """One ``.ds`` file with its index."""

    path: Path
    index: Path
    dtype: Any
    length: int
    documents: int
    vocab_size: int | None

    @property
    def tokens(self) -> Any:
        return _map(self.path, self.dtype)

    @property
    def ends(self) -> Any:
        return _map(self.index, _ENDS_DTYPE)

    def require_tokens(self, tokens: Any, first: int) -> None:
        """Refuse tokens that the vocabulary does not have; the first of them is token ``first`` of the file."""
        if self.vocab_size is not None and len(tokens) and int(tokens.max()) >= self.vocab_size:
            place = int(np.argmax(tokens >= self.vocab_size))
            raise StageError(
                f"{self.path} is damaged: token {first + place} is {int(tokens[place])}, and the tokenizer has "
                f"{self.vocab_size:,} tokens. Tokenise again"
            )

    def require_ends(self, ends: Any, above: int, below: int) -> None:
        """Refuse document ends that do not ascend, all between these token numbers."""
        if len(ends) and (int(ends[0]) <= above or int(ends[-1]) >= below or (ends[1:] <= ends[:-1]).any()):
            raise self.not_ascending()

    def not_ascending(self) -> StageError:
        """What is wrong with a file whose document ends are in disorder."""
        return StageError(f"{self.index} is damaged: document ends do not ascend. Tokenise again")


def _open(path: Path, vocab_size: int | None) -> _TokenFile:
    """The file, found whole: datatrove's three files agree on its length."""
    metadata, index = _beside(path, ".metadata"), _beside(path, ".index")
    try:
        if strange := next((each for each in (path, metadata, index) if not each.is_file()), None):
            raise StageError(f"{path} is not whole: there is no file {strange.name}. Tokenise again")
        with metadata.open("rb") as file:
            tokenizer, count, *_ = file.read(_LONGEST_METADATA).decode("utf-8").split("\n")
        dtype, length = _DTYPES[int(tokenizer.rpartition("|")[2])], int(count)
        found = path.stat().st_size / dtype.itemsize
        documents = index.stat().st_size / _ENDS_DTYPE.itemsize
    except (OSError, ValueError, KeyError) as error:
        raise StageError(f"{path}: its .metadata or .index is missing or is not datatrove's ({error!r})") from None
    if not documents or not length or found != length or documents != int(documents):
        raise StageError(
            f"{path} is not whole: it has {found:g} tokens and {documents:g} document ends, and its .metadata says "
            f"{str(length)[:40]} tokens. Tokenise again"
        )
    file_ = _TokenFile(path, index, dtype, length, int(documents), vocab_size)
    if int(file_.ends[-1]) != length:
        raise StageError(f"{path} is not whole: its last document ends elsewhere than the file. Tokenise again")
    if vocab_size is not None and dtype.itemsize != (2 if vocab_size <= _LARGEST_2_BYTE_VOCABULARY else 4):
        raise StageError(
            f"{metadata} says {dtype.itemsize} bytes per token, which is not what a tokenizer of {vocab_size:,} tokens "
            "writes. Tokenise again"
        )
    file_.require_ends(file_.ends[:_CHECKED_AT_ONCE], 0, length + 1)
    file_.require_tokens(file_.tokens[:_CHECKED_AT_ONCE], 0)
    return file_


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


@functools.lru_cache(maxsize=_MAPS_KEPT)
def _map(path: Path, dtype: Any) -> Any:
    """The file as a read-only array; a plain array over the map, which numpy slices faster than a memmap.

    A map holds a file open, and a process may have some hundred or thousand open, so that only the latest are kept.
    """
    with path.open("rb") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype)
