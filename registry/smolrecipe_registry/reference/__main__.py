"""``python -m smolrecipe_registry.reference FOLDER``: the pages of smolrecipe's own plugins, of no other one.

What was in the folder before goes: a page of something that is no longer offered would stay otherwise.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from smolrecipe_registry.discovery import Registry, load_registry, plugin_entries
from smolrecipe_registry.reference.pages import write_pages

DISTRIBUTION = "smolrecipe"


def built_ins() -> Registry:
    """The plugins that ship with smolrecipe, loaded."""
    entries = plugin_entries()
    return load_registry(
        [name for name, entry in entries.items() if entry.dist is not None and entry.dist.name == DISTRIBUTION]
    )


if __name__ == "__main__":
    (folder,) = map(Path, sys.argv[1:])
    shutil.rmtree(folder, ignore_errors=True)
    print(f"{len(write_pages(built_ins().catalog, folder))} pages written to {folder}")
