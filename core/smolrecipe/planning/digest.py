"""The digest: the identity of a stage's result.

It covers the resolved options that change a result, the plugins that are used (name, version, source), the data behind
the sources and files that options name, and the digests of the stages consumed. Where files lie, how many devices share
the work, log levels and launchers are not part of it.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from smolrecipe.catalog import Catalog
from smolrecipe.components import Source, StageKind
from smolrecipe.options import Use, walk
from smolrecipe.recipe.converter import unstructure


def stage_digest(use: Use[StageKind], parents: Mapping[str, str], catalog: Catalog) -> str:
    """The digest, 64 hexadecimal digits, of a stage whose parents have the digests ``parents``."""
    identity = {
        # A path says where a file lies, not what is in it: that is told by "data".
        "options": unstructure(use, keep=is_identity, path_text=lambda path: "<path>"),
        "plugins": sorted(set(plugins_behind(use, catalog))),
        "data": sorted(data_behind(use)),
        "parents": sorted(parents.items()),
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def is_identity(metadata: Mapping[str, Any]) -> bool:
    """Whether an option with this metadata changes what a stage computes."""
    return bool(metadata.get("identity", True))


def plugins_behind(use: Use[Any], catalog: Catalog) -> Iterator[tuple[str, str, str]]:
    """Name, version and source hash of the plugin of each component that the result depends on."""
    for _, value, metadata in walk(use):
        if isinstance(value, Use) and is_identity(metadata):
            provider = catalog.provider(value.component)
            yield provider.plugin, provider.version, provider.hash_source()


def data_behind(use: Use[Any]) -> Iterator[tuple[str, str]]:
    """What identifies the data behind the options: each source's own word for it, and the content of paths."""
    sources: list[tuple[str | int, ...]] = []
    for path, value, metadata in walk(use):
        where = ".".join(map(str, path))
        if isinstance(value, Use) and isinstance(value.component, Source):
            sources.append(path)
            yield where, value.component.fingerprint(value.options)
        elif isinstance(value, Path) and is_identity(metadata) and not _lies_in(path, sources):
            yield where, _content_hash(value)


def _lies_in(path: tuple[str | int, ...], sources: Sequence[tuple[str | int, ...]]) -> bool:
    """Whether a source is around the path: it speaks for its own files."""
    return any(path[: len(source)] == source for source in sources)


def _content_hash(path: Path) -> str:
    """A hash of a file, or of a folder's files with their names in it; of nothing where there is nothing."""
    if path.is_file():
        stat = path.stat()
        return _file_hash(path, stat.st_size, stat.st_mtime_ns)
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else []
    listing = [(file.relative_to(path).as_posix(), _content_hash(file)) for file in files]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest() if listing else ""


@functools.lru_cache(maxsize=4096)
def _file_hash(path: Path, size: int, modified_ns: int) -> str:
    """The file's sha256; size and time of change are there to forget it when the file changes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
