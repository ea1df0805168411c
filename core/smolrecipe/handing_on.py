"""What a plugin that hands a published artifact on works with: whether it is whole, and what may not leave the house.

It imports no engine.
"""

from __future__ import annotations

from smolrecipe.running.manifest import MANIFEST_FILE, damages, read_manifest
from smolrecipe.running.redact import redact

__all__ = ["MANIFEST_FILE", "damages", "read_manifest", "redact"]
