"""Telling a folder that is what was written from one that was cut short or damaged: the sha256 of every file in it."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from smolrecipe.durable import sync_folder, write_whole

SEAL = "seal.json"
UNSEALED = "was cut short"
"""What ``damage`` says of a folder that was never sealed."""

_THREADS = 8
"""Files read at once: hashing lets other threads run."""


def seal(folder: Path, seal_file: Path | None = None) -> None:
    """Bring all files of a folder to the disk and note what they are, in ``seal.json`` there or in another file.

    A folder is sealed last: what lies in a sealed one is whole.
    """
    files = _files(folder)
    with ThreadPoolExecutor(_THREADS) as threads:
        noted = dict(zip(files, threads.map(_synced, (folder / name for name in files)), strict=True))
    for inner in {(folder / name).parent for name in files} | {folder}:
        sync_folder(inner)
    write_whole(seal_file or folder / SEAL, json.dumps(noted, indent=1) + "\n")


def damage(folder: Path, seal_file: Path | None = None) -> str | None:
    """What is wrong with a folder, in words that go on after its name; ``None`` if it is what was sealed."""
    try:
        noted = json.loads((seal_file or folder / SEAL).read_text(encoding="utf-8"))
        files = _files(folder)
        for name in sorted({*files, *noted}):
            if name not in noted:
                return f"is damaged ({name} was not written with it)"
            if name not in files:
                return f"is damaged ({name} is missing)"
        with ThreadPoolExecutor(_THREADS) as threads:
            for name, found in zip(files, threads.map(_found, (folder / name for name in files)), strict=True):
                if found != noted[name]:
                    return f"is damaged ({name} is not what was written)"
    except FileNotFoundError:
        return UNSEALED
    except OSError as error:
        return f"is damaged ({Path(str(error.filename)).name} cannot be read: {error.strerror})"
    except (ValueError, TypeError, RecursionError):
        return f"is damaged ({SEAL} is not what was written)"
    return None


def _files(folder: Path) -> list[str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path != folder / SEAL)
    return sorted(str(path.relative_to(folder)) for path in files)


def _synced(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return _found(path)


def _found(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
