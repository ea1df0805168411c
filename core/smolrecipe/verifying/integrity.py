"""Whether an artifact's files are those that were published."""

from __future__ import annotations

from pathlib import Path

from smolrecipe.proof import Proof
from smolrecipe.running.manifest import damages, read_manifest

_NAMED = 5


def files_as_published(folder: Path) -> Proof:
    """Compare every file with ``manifest.json``: none missing, none added, none changed, that file itself included."""
    claim = "files are those that were published"
    try:
        wrong, compared = damages(folder), len(read_manifest(folder))
    except ValueError as error:
        return Proof(claim=claim, holds=False, note=str(error))
    more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
    return Proof.same(claim, len(wrong), max(compared, len(wrong)), of="files", note=", ".join(wrong[:_NAMED]) + more)
