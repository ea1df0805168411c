"""The digest: the identity of a stage's result.

It covers the resolved options that change a result, the plugins that are used (name, version, source), the data behind
the sources and files that options name, and the digests of the stages consumed. Where files lie, how many devices share
the work, log levels and launchers are not part of it.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
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
        "options": unstructure(use, keep=_is_identity, path_text=lambda path: "<path>"),
        "plugins": sorted(set(_plugins(use, catalog))),
        "data": sorted(_data(use)),
        "parents": sorted(parents.items()),
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _is_identity(metadata: Mapping[str, Any]) -> bool:
    return bool(metadata.get("identity", True))


def _plugins(use: Use[Any], catalog: Catalog) -> Iterator[tuple[str, str, str]]:
    for _, value, metadata in walk(use):
        if isinstance(value, Use) and _is_identity(metadata):
            provider = catalog.provider(value.component)
            yield provider.plugin, provider.version, provider.hash_source()


def _data(use: Use[Any]) -> Iterator[tuple[str, str]]:
    for path, value, metadata in walk(use):
        where = ".".join(map(str, path))
        if isinstance(value, Use) and isinstance(value.component, Source):
            yield where, value.component.fingerprint(value.options)
        elif isinstance(value, Path) and _is_identity(metadata) and value.is_file():
            stat = value.stat()
            yield where, _file_hash(value, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _file_hash(path: Path, size: int, modified_ns: int) -> str:
    """The file's sha256; size and time of change are there to forget it when the file changes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
