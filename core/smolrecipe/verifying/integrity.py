"""Whether an artifact's files are those that were published."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from smolrecipe.proof import Proof
from smolrecipe.running.store import MANIFEST_FILE

_NAMED = 5


def files_as_published(folder: Path) -> Proof:
    """Compare every file with ``manifest.json``: none missing, none added, none changed."""
    claim = "files are those that were published"
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        expected = {str(name): (str(entry["sha256"]), int(entry["bytes"])) for name, entry in manifest.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return Proof(claim=claim, holds=False, note=f"{MANIFEST_FILE} cannot be read ({type(error).__name__}: {error})")
    found = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if not path.is_dir()}
    found.pop(MANIFEST_FILE, None)
    wrong = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    wrong += [f"{name} was added" for name in sorted(found.keys() - expected.keys())]
    wrong += [
        f"{name} was changed" for name in sorted(found.keys() & expected.keys()) if _read(found[name]) != expected[name]
    ]
    more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
    return Proof.same(
        claim, len(wrong), len(expected.keys() | found.keys()), of="files", note=", ".join(wrong[:_NAMED]) + more
    )


def _read(path: Path) -> tuple[str, int] | None:
    """Checksum and size, ``None`` for what is no readable file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size
    except OSError:
        return None
