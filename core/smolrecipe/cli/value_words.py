"""A value of an option in one short line."""

from __future__ import annotations

from typing import Any

from smolrecipe.comparing.changes import ABSENT
from smolrecipe.recipe.sweep_names import value_text
from smolrecipe.strict_json import printable


def value_in_words(value: Any, longest: int) -> str:
    """The value as a person would write it, cut after ``longest`` characters; ``nothing`` for one that is not there."""
    if value is ABSENT:
        return "nothing"
    text = printable(" ".join(value_text(value).split()) or '""')
    return text if len(text) <= longest else f"{text[: longest - 3]}..."
