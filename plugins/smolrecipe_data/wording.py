"""Words for what ``verify`` finds."""

from __future__ import annotations

from collections.abc import Sequence

_SHOWN = 2


def listed(places: Sequence[str]) -> str:
    """The first places, and how many more there are; nothing for none."""
    more = f"; and {len(places) - _SHOWN:,} more" if len(places) > _SHOWN else ""
    return "; ".join(places[:_SHOWN]) + more
