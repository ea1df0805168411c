"""What would become of a stage, and why, in the few words that fit a table; ``smolrecipe why`` has all of it."""

from __future__ import annotations

from smolrecipe.cli.value_words import value_in_words
from smolrecipe.comparing.why import Difference, Explained, Why
from smolrecipe.strict_json import printable

_LONGEST = 16
"""Characters of a value."""


def status_in_words(told: Why) -> str:
    """``published``, ``goes on at step N``, or ``would run`` with the first reason."""
    if told.status == "published":
        return "published"
    if told.status == "half done":
        step = told.checkpoint if told.checkpoint is not None else told.step
        return f"goes on at step {step:,}" if step is not None else "goes on"
    if told.nearest is None:
        return "would run: none yet"
    return f"would run: {_reason(told.nearest, told.because)}"


def _reason(nearest: Explained, ancestors: tuple[Explained, ...]) -> str:
    """The first thing that differs; where that is only what it is made from, the stage where it starts."""
    own = [difference for difference in nearest.differences if difference.kind != "parent"]
    if own:
        return _words(own[0]) + (f" and {len(own) - 1} more" if len(own) > 1 else "")
    for ancestor in reversed(ancestors):
        root = [difference for difference in ancestor.differences if difference.kind != "parent"]
        if root:
            return f"{ancestor.stage}: {_words(root[0])}" + (f" and {len(root) - 1} more" if len(root) > 1 else "")
    parents = [difference.what for difference in nearest.differences]
    return f"made from another {parents[0]}" if parents else "no difference on record"


def _words(difference: Difference) -> str:
    what = printable(difference.what)
    if difference.kind == "option":
        if difference.order:
            return f"order of {what}"
        return f"{what} {value_in_words(difference.old, _LONGEST)} -> {value_in_words(difference.new, _LONGEST)}"
    if difference.kind == "plugin":
        return f"plugin {what}"
    if difference.kind == "data":
        return f"data behind {what}"
    if difference.kind == "name":
        return f"was {value_in_words(difference.old, _LONGEST)}"
    return what
