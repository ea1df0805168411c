"""What ``smolrecipe verify`` is pointed at: a run, one artifact of it, or a Hugging Face checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, Literal

from attrs import frozen

from smolrecipe import published
from smolrecipe.errors import RecipeError
from smolrecipe.running.manifest import MANIFEST_FILE
from smolrecipe.stage import STAGE_FILE
from smolrecipe.strict_json import printable

CONFIG_FILE = "config.json"

_FOLDER_NAME = re.compile(rf".+-[0-9a-f]{{{published.DIGEST_DIGITS}}}")


@frozen(kw_only=True)
class Target:
    """One folder to verify, and what it is called in the table."""

    label: str
    folder: Path
    kind: Literal["artifact", "model"]


def find_targets(path: Path) -> list[Target]:
    """The folders that ``path`` stands for; a run's artifacts in the order in which they were made.

    Raises:
        RecipeError: when there is nothing to verify.
    """
    artifacts = [folder for folder in sorted(path.iterdir()) if is_artifact(folder)] if path.is_dir() else []
    if is_artifact(path) and not (artifacts and _is_only_called_so(path)):
        return [Target(label=_stage_name(path), folder=path, kind="artifact")]
    if (path / CONFIG_FILE).is_file():
        return [Target(label=printable(path.name), folder=path, kind="model")]
    if artifacts:
        return _in_order(artifacts)
    there = (
        "is no folder" if not path.is_dir() else f"has neither {MANIFEST_FILE} nor {CONFIG_FILE}, nor artifacts in it"
    )
    raise RecipeError(
        [
            f"there is nothing to verify: {path} {there}; name a run (runs/<recipe>), an artifact in it, or a folder "
            "with a Hugging Face checkpoint"
        ]
    )


def is_artifact(folder: Path) -> bool:
    """Whether a folder is a published artifact, damaged or not.

    It is called like one, ``<stage>-<digest>``, or was given another name and has what only publishing writes.
    """
    if folder.suffix == ".partial" or not folder.is_dir():
        return False
    return not _is_only_called_so(folder) or (
        _FOLDER_NAME.fullmatch(folder.name) is not None and not (folder / CONFIG_FILE).is_file()
    )


def _is_only_called_so(folder: Path) -> bool:
    return not (folder / STAGE_FILE).is_file() and (
        not (folder / MANIFEST_FILE).is_file() or (folder / CONFIG_FILE).is_file()
    )


def read_record(folder: Path) -> Mapping[str, Any]:
    """What an artifact's ``stage.json`` says.

    Raises:
        ValueError: when it is not what publishing writes; the message begins with the file.
    """
    return published.read_record(folder / STAGE_FILE)


def parent_folders(folder: Path, record: Mapping[str, Any]) -> dict[str, Path]:
    """Where the artifacts that this one was made from should be: stage name -> folder."""
    return {
        name: folder.parent / f"{name}-{digest[: published.DIGEST_DIGITS]}"
        for name, digest in record["parents"].items()
    }


def _stage_name(folder: Path) -> str:
    return printable(folder.name.rpartition("-")[0] or folder.name)


def _in_order(artifacts: list[Path]) -> list[Target]:
    """Parents before children, otherwise by name. Two artifacts of one stage keep their digests in their labels."""
    graph: dict[Path, list[Path]] = {}
    for folder in artifacts:
        try:
            graph[folder] = list(parent_folders(folder, read_record(folder)).values())
        except ValueError:
            graph[folder] = []
    try:
        ordered = [folder for folder in TopologicalSorter(graph).static_order() if folder in graph]
    except CycleError:  # no run makes one: these records were written by someone else
        ordered = artifacts
    names = [_stage_name(folder) for folder in ordered]
    return [
        Target(label=name if names.count(name) == 1 else printable(folder.name), folder=folder, kind="artifact")
        for name, folder in zip(names, ordered, strict=True)
    ]
