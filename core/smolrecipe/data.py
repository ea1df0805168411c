"""What stages and data components say to each other: rows of a source, token rows of a packer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from attrs import frozen

if TYPE_CHECKING:
    import numpy

TextRow = Mapping[str, Any]
"""``{"text": str}``."""

ChatRow = Mapping[str, Any]
"""``{"messages": [{"role", "content"}, ...], "chat_template_kwargs": {...}}``; the second key is optional."""

PreferenceRow = Mapping[str, Any]
"""``{"prompt": [message, ...], "chosen": [...], "rejected": [...], "chat_template_kwargs": {...}}``."""

ProblemRow = Mapping[str, Any]
"""``{"messages": [message, ...], "chat_template_kwargs": {...}, "answer": str}``: a prompt and its answer."""


@frozen
class TokenRow:
    """One training sample.

    ``tokens`` has the shape (sequence_length + 1,): inputs are all but the last, labels all but the first.
    ``positions`` has the shape (sequence_length,) and restarts at 0 where a document starts (and at 0 itself, where a
    document was cut by the row's start).
    """

    tokens: numpy.ndarray
    positions: numpy.ndarray
    last_starts_document: bool = False
    """Whether the last token, which is only ever a label and so has no position, is the first of a document."""


class TokenRows(Protocol):
    """The samples of a training run in their one order, addressed by global sample number.

    Stateless: ``row(n)`` is the same whenever and in whichever process it is asked for, so a run's whole data state is
    the number of samples it has consumed, and resuming is exact at any data-parallel degree.
    """

    def row(self, sample: int) -> TokenRow:
        """The sample with that global number, counted from 0."""
        ...

    def held_out(self, rows: int) -> list[TokenRow]:
        """Up to ``rows`` samples in the mixture's proportions that no ``row`` ever returns."""
        ...

    def position(self, samples: int) -> Mapping[str, int]:
        """How far each source has been read after ``samples`` samples, in tokens: what a later stage continues from.

        What a stage has read of a source is how much farther that is than after no sample.
        """
        ...

    def summary(self) -> Mapping[str, Any]:
        """Counts worth keeping in the artifact: tokens and rows per source, tokens that fill no whole row."""
        ...
