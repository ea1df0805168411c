"""The report's folder: what a report has written there it may write anew and remove, and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smolrecipe import UserError
from smolrecipe.durable import write_json, write_whole
from smolrecipe.strict_json import read_mapping

LIST_FILE = "report-files.json"
"""In the report's folder: the files that reports have written there, with the checksums of what they wrote."""

_LONGEST_NAME = 100


def put(made: Path, folder: Path) -> None:
    """Bring the files of the folder ``made`` into the report's folder, and remove what only an earlier report wrote.

    A file that was changed since, or that no report has written, is left alone.

    Raises:
        UserError: when such a file is in the way; nothing is changed then.
    """
    new = {file.name: file.read_bytes() for file in sorted(made.iterdir())}
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in new.items()}
    ours = _ours(folder)
    for name in new:
        if _is_there(folder / name) and name not in ours:
            raise _in_the_way(folder / name)
    # Killed from here on, the list still tells old files and new ones from others.
    _note(folder, {name: [*ours.get(name, ()), *sums.get(name, "").split()] for name in {*ours, *new}})
    for name, content in new.items():
        write_whole(folder / name, content)
    for name in ours.keys() - new.keys():
        (folder / name).unlink(missing_ok=True)
    _note(folder, {name: [checksum] for name, checksum in sums.items()})


def _ours(folder: Path) -> dict[str, list[str]]:
    """The files that are still what a report wrote, with what else the list has of them; also those that are gone."""
    if not _is_there(folder / LIST_FILE):
        return {}
    try:
        listed: Any = read_mapping(folder / LIST_FILE).get("files")
    except ValueError:
        listed = None
    if not isinstance(listed, dict):
        raise _in_the_way(folder / LIST_FILE)
    return {name: sums for name, sums in listed.items() if _is_entry(name, sums) and _is_one_of(folder / name, sums)}


def _is_entry(name: str, sums: Any) -> bool:
    plain = len(name) <= _LONGEST_NAME and Path(name).name == name and name.endswith((".png", ".html"))
    return plain and isinstance(sums, list) and all(isinstance(one, str) for one in sums)


def _is_one_of(file: Path, sums: list[str]) -> bool:
    if not _is_there(file):
        return True
    return file.is_file() and not file.is_symlink() and hashlib.sha256(file.read_bytes()).hexdigest() in sums


def _in_the_way(file: Path) -> UserError:
    return UserError(
        f"{file} is not what a report has written there, and would be lost: move it, or name another folder with --out"
    )


def _is_there(file: Path) -> bool:
    return file.exists() or file.is_symlink()


def _note(folder: Path, files: Mapping[str, list[str]]) -> None:
    write_json(folder / LIST_FILE, {"files": dict(sorted(files.items()))})
