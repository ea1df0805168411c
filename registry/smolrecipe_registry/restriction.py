"""Which plugins are to be loaded, where not all are."""

from __future__ import annotations

import os

RESTRICTION = "SMOLRECIPE_PLUGINS"
"""Environment variable with the names of the only plugins to load, separated by commas."""


def split_names(names: str) -> tuple[str, ...]:
    """Names that are separated by commas."""
    return tuple(name.strip() for name in names.split(",") if name.strip())


def restriction_from_environment() -> tuple[str, ...] | None:
    """The names in ``SMOLRECIPE_PLUGINS``, or ``None`` where it is not set and all plugins are loaded."""
    names = os.environ.get(RESTRICTION)
    return None if names is None else split_names(names)
