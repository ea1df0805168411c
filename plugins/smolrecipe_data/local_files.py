"""The ``files`` source: what its paths name, and the identity of their content. Reading is in ``read_files``."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from smolrecipe_data.rows import column_problems
from smolrecipe_data.source_options import FilesOptions

SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".txt", ".md")


def expand(path: Path) -> list[Path]:
    """The files that a path or a glob names, a glob's by name."""
    globbed = next((index for index, part in enumerate(path.parts) if any(mark in part for mark in "*?[")), None)
    if globbed is None or path.exists():
        return [path] if path.is_file() else []
    folder, pattern = Path(*path.parts[:globbed]), "/".join(path.parts[globbed:])
    return sorted(match for match in folder.glob(pattern) if match.is_file())


def suffix(path: Path) -> str:
    """The ending that tells the format, ``""`` for one that is not read."""
    return next((ending for ending in SUFFIXES if path.name.endswith(ending)), "")


def check(options: FilesOptions) -> Iterable[str]:
    """Formats that are not read, or not into the shape asked for, and fields that the shape does not have."""
    if not options.paths:
        yield "'paths' is empty: name at least one file"
    for path in options.paths:
        for file in expand(path):
            if not suffix(file):
                yield f"cannot read {file}: formats are {', '.join(SUFFIXES)}"
            elif suffix(file) in (".txt", ".md") and options.yields != "text":
                yield f"{file} can only yield text rows, not {options.yields} rows"
    yield from column_problems(options.yields, options.columns)


def missing(options: FilesOptions) -> Iterable[str]:
    """Paths at which there is nothing on this machine."""
    for path in options.paths:
        if not expand(path):
            yield f"no file at {path}"


def fingerprint(options: FilesOptions) -> str:
    """A hash of the content of all files in reading order, wherever they lie."""
    whole = hashlib.sha256()
    for path in options.paths:
        for file in expand(path):
            stat = file.stat()
            whole.update(f"{suffix(file)} {_sha256(file, stat.st_size, stat.st_mtime_ns)}\n".encode())
    return whole.hexdigest()


def files(options: FilesOptions) -> Iterator[Path]:
    """All files in reading order."""
    for path in options.paths:
        yield from expand(path)


@functools.lru_cache(maxsize=65536)
def _sha256(path: Path, size: int, modified_ns: int) -> str:
    """The file's sha256; size and time of change are there to forget it when the file changes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
