"""What became of the rows of a source: how many there are, what was cut off and left out, how long they were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from attrs import Factory, asdict, define

from smolrecipe.lengths import in_bins


@define
class Counts:
    """What became of a source's rows."""

    rows: int = 0
    tokens: int = 0
    learned_tokens: int = 0
    truncated_rows: int = 0
    truncated_tokens: int = 0
    rows_without_loss: int = 0
    """Rows of which no token would be learned. They are left out."""
    rows_of_equal_answers: int = 0
    """Pairs of which both answers are the same, after truncation: they prefer nothing. They are left out."""
    dropped_tokens: int = 0
    """Tokens of the rows that are left out, after truncation."""
    rows_spelling_control_tokens: int = 0
    """Rows in which a message spells a token such as ``<|im_end|>``: it is tokenised as the text that it is."""
    lengths: Counter[int] = Factory(Counter)
    """How many conversations, two of each pair, have a length in tokens, before anything is cut off or left out."""

    def add(self, others: Counts) -> None:
        """Count other rows too."""
        for name, value in asdict(others, recurse=False).items():
            if name == "lengths":
                self.lengths.update(value)
            else:
                setattr(self, name, getattr(self, name) + value)

    def told(self) -> dict[str, Any]:
        """All counts as JSON has them, lengths in their bins."""
        return {**asdict(self), "lengths": in_bins(self.lengths)}


def counts_told(told: Mapping[str, Any]) -> Counts:
    """What ``told`` has written, read again."""
    lengths = Counter({int(shortest): count for shortest, count in told["lengths"].items()})
    return Counts(**{**told, "lengths": lengths})
