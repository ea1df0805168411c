"""The digest: the identity of a stage's result.

It covers the resolved options that change a result, the plugins that are used (name, version, source), the data behind
the sources and files that options name, and the digests of the stages consumed. Where files lie, how many devices share
the work, log levels and launchers are not part of it, nor is the order in which options are written. The order of the
entries of a mapping is, where a plugin has not said that it takes them in any (``option(ordered=False)``): rows of
several sources are joined in it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from smolrecipe.catalog import Catalog, Provider, hash_of_files
from smolrecipe.components import Source, StageKind
from smolrecipe.file_hashes import file_hash
from smolrecipe.options import Model, StageRef, Use, walk, yaml_key

_Path = tuple[str | int, ...]
_MOST_FILES = 100_000
"""In a folder that an option names; a data set of more has a source to speak for it."""


class UnreadableDataError(Exception):
    """Data behind an option that cannot be read. ``path`` is the option's in the stage."""

    def __init__(self, path: _Path, error: OSError) -> None:
        self.path = path
        super().__init__(f"{error.filename or 'it'} cannot be read ({error.strerror or error})")


def stage_digest(use: Use[StageKind], parents: Mapping[str, str], catalog: Catalog, *, fresh: bool = False) -> str:
    """The digest, 64 hexadecimal digits, of a stage whose parents have the digests ``parents``.

    ``fresh`` takes the sources of plugins as they are now; otherwise they count as they were when first asked for.

    Raises:
        UnreadableDataError: when a file that counts cannot be read.
    """
    identity = {
        "options": _identity(use, {}),
        "plugins": plugins_behind(use, catalog, fresh=fresh),
        "data": sorted(data_behind(use)),
        "parents": sorted(parents.items()),
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def is_identity(metadata: Mapping[str, Any]) -> bool:
    """Whether an option with this metadata changes what a stage computes."""
    return bool(metadata.get("identity", True))


def is_ordered(metadata: Mapping[str, Any]) -> bool:
    """Whether the order of the entries of a mapping with this metadata changes what a stage computes."""
    return bool(metadata.get("ordered", True))


def plugins_behind(use: Use[Any], catalog: Catalog, *, fresh: bool = False) -> list[tuple[str, str, str]]:
    """Name, version and source hash of each plugin whose components the result depends on, by name."""
    providers = {provider.plugin: provider for provider in providers_behind(use, catalog)}
    return [
        (name, provider.version, source_now(provider) if fresh else provider.hash_source())
        for name, provider in sorted(providers.items())
    ]


def providers_behind(use: Use[Any], catalog: Catalog) -> Iterator[Provider]:
    """The provider of each component that the result depends on."""
    for _, value in _with_effect(use):
        if isinstance(value, Use):
            yield catalog.provider(value.component)


def source_now(provider: Provider) -> str:
    """What ``hash_source`` would say, had it not been asked before."""
    return hash_of_files(provider.source_files()) or provider.hash_source()


def data_behind(use: Use[Any]) -> Iterator[tuple[str, str]]:
    """What identifies the data behind the options: each component's own word for it, and the content of paths.

    Raises:
        UnreadableDataError: when a file cannot be read.
    """
    speaks: dict[_Path, bool] = {}
    for path, value in _with_effect(use):
        where = ".".join(map(str, path))
        try:
            if isinstance(value, Use):
                word = value.component.fingerprint(value.options)
                speaks[path] = bool(word) and isinstance(value.component, Source)
                if word:
                    yield where, word
            elif isinstance(value, Path) and not _owner_speaks(path, speaks):
                yield where, _content_hash(value)
        except OSError as error:
            raise UnreadableDataError(path, error) from None


def _owner_speaks(path: _Path, speaks: Mapping[_Path, bool]) -> bool:
    """Whether the component whose option lies at ``path`` is a source that speaks for its own files."""
    owner = next((path[:end] for end in range(len(path), -1, -1) if path[:end] in speaks), None)
    return owner is not None and speaks[owner]


def _with_effect(use: Use[Any]) -> Iterator[tuple[_Path, Any]]:
    """Path and value of all that lies in the options and changes a result, parents first."""
    without: set[_Path] = set()
    for path, value, metadata in walk(use):
        if not is_identity(metadata):
            without.add(path)
        elif not any(path[:end] in without for end in range(len(path))):
            yield path, value


def _identity(value: Any, metadata: Mapping[str, Any]) -> Any:
    """What of a value changes a result, as JSON. A path says where a file lies, not what is in it: data tells that."""
    if isinstance(value, Use):
        return {"use": value.component.name, **_identity(value.options, {})}
    if isinstance(value, Model):
        return [[name, _identity(use, {})] for name, use in value.components.items()]
    if isinstance(value, StageRef):
        return str(value)
    if isinstance(value, Path):
        return "<path>"
    if attrs.has(type(value)):
        return {
            yaml_key(field.name): _identity(getattr(value, field.name), field.metadata)
            for field in attrs.fields(type(value))
            if is_identity(field.metadata)
        }
    if isinstance(value, Mapping):
        entries = value.items() if is_ordered(metadata) else sorted(value.items())
        return [[name, _identity(item, metadata)] for name, item in entries]
    if isinstance(value, (list, tuple)):
        return [_identity(item, metadata) for item in value]
    return value


def _content_hash(path: Path) -> str:
    """A hash of a file, or of a folder's files with their names in it; of nothing where there is nothing."""
    if path.is_file():
        return file_hash(path)
    files = _files_in(path) if path.is_dir() else []
    listing = [(file.relative_to(path).as_posix(), file_hash(file)) for file in files]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest() if listing else ""


def _files_in(folder: Path) -> list[Path]:
    """The files below a folder, by name; what is linked to counts as if it lay there.

    Raises:
        OSError: where there are so many that it cannot be what was meant.
    """
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    for root, folders, files in os.walk(folder, followlinks=True, onerror=_raise):
        stat = Path(root).stat()
        if (stat.st_dev, stat.st_ino) in seen:
            folders.clear()  # a link that leads back
            continue
        seen.add((stat.st_dev, stat.st_ino))
        found.extend(file for name in files if (file := Path(root, name)).is_file())
        if len(found) > _MOST_FILES:
            raise OSError(errno.EFBIG, f"it holds more than {_MOST_FILES:,} files: name what is meant", str(folder))
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error
