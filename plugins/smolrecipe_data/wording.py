"""Words about what data holds: places listed, and text of strangers made fit for a terminal and a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_SHOWN = 2
_MOST_NAMES = 12
_LONGEST_NAME = 60


def listed(places: Sequence[str]) -> str:
    """The first places, and how many more there are; nothing for none."""
    more = f"; and {len(places) - _SHOWN:,} more" if len(places) > _SHOWN else ""
    return "; ".join(places[:_SHOWN]) + more


def printable(text: object) -> str:
    """Text as any terminal and any file takes it: escapes for control characters and for what is no Unicode."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(text))


def named(names: Iterable[object]) -> str:
    """Names that a file holds, which may be as many, as long and as odd as it likes; ``none`` for none."""
    found = sorted(map(str, names))
    shown = [printable(name[:_LONGEST_NAME]) + ("..." if len(name) > _LONGEST_NAME else "") for name in found]
    more = f" and {len(found) - _MOST_NAMES:,} more" if len(found) > _MOST_NAMES else ""
    return ", ".join(shown[:_MOST_NAMES]) + more or "none"
