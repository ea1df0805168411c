"""Token files read with nothing but numpy, for ``verify``: by other means than those that packers read them with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen

Array = np.ndarray[Any, np.dtype[Any]]

_BYTES_OF_AN_END = 8


@frozen(kw_only=True)
class RawFile:
    """A ``.ds`` file as its bytes say, whether or not it is whole."""

    path: Path
    token_bytes: int
    size: int
    """Bytes of the file."""
    index_size: int
    """Bytes of its index; 0 where there is none."""

    @property
    def name(self) -> str:
        """For people: ``source/split/file``."""
        return "/".join(self.path.parts[-3:])

    @property
    def documents(self) -> int:
        """How many whole document ends the index has."""
        return self.index_size // _BYTES_OF_AN_END

    @property
    def length(self) -> int:
        """How many whole tokens the file has."""
        return self.size // self.token_bytes

    def is_whole(self) -> bool:
        """Whether the index has ends, and the last one is that of the file."""
        if not self.documents or self.index_size % _BYTES_OF_AN_END:
            return False
        return int(self.ends(self.documents - 1, self.documents)[0]) * self.token_bytes == self.size

    def ends(self, first: int, stop: int) -> Array:
        """The ends of documents ``first`` to ``stop`` - 1, in tokens, int64."""
        path = self.path.with_name(self.path.name + ".index")
        return np.fromfile(path, "<u8", stop - first, offset=first * _BYTES_OF_AN_END).astype(np.int64)

    def all_ends(self) -> Array:
        """The ends of all documents; mapped, so that a search reads only what it looks at."""
        if not self.documents:
            return np.empty(0, np.int64)
        path = self.path.with_name(self.path.name + ".index")
        return np.memmap(path, "<u8", "r", shape=(self.documents,))

    def tokens(self, start: int, stop: int) -> Array:
        """The tokens ``start`` to ``stop`` - 1, int64; fewer where the file ends before."""
        count = max(0, min(stop, self.length) - start)
        return np.fromfile(self.path, f"<u{self.token_bytes}", count, offset=start * self.token_bytes).astype(np.int64)


def raw_files(folder: Path, vocab_size: int) -> list[RawFile]:
    """The ``.ds`` files of a folder, by name. A token takes two bytes where the vocabulary allows it, or else four."""
    found = []
    for path in sorted(folder.glob("*.ds")):
        index = path.with_name(path.name + ".index")
        found.append(
            RawFile(
                path=path,
                token_bytes=2 if vocab_size <= 2**16 else 4,
                size=path.stat().st_size,
                index_size=index.stat().st_size if index.is_file() else 0,
            )
        )
    return found
