"""What a check of something published found: one line of ``smolrecipe verify``."""

from __future__ import annotations

import math

from attrs import frozen


@frozen(kw_only=True)
class Proof:
    """One claim about something published, with what was measured.

    ``claim`` is short and says what holds, not what was done: ``"logits equal transformers'"``. ``measured`` and
    ``bound`` are for people, with their unit. ``note`` says where a claim fails, and what to do about it.
    """

    claim: str
    holds: bool
    measured: str = ""
    bound: str = ""
    note: str = ""

    @classmethod
    def within(cls, claim: str, measured: float, bound: float, *, unit: str = "", note: str = "") -> Proof:
        """A claim about a number that is at most ``bound``; one that is not finite never holds."""
        holds = math.isfinite(measured) and measured <= bound
        words = f" {unit}" if unit else ""
        return cls(
            claim=claim,
            holds=holds,
            measured=f"{measured:.3g}{words}",
            bound=f"{bound:g}{words}",
            note="" if holds else note,
        )

    @classmethod
    def same(cls, claim: str, differing: int, compared: int, *, of: str, note: str = "") -> Proof:
        """A claim that ``compared`` things (``of`` says which: "tensors") are equal, of which ``differing`` are not.

        Nothing compared proves nothing, so it does not hold either.
        """
        holds = differing == 0 and compared > 0
        return cls(
            claim=claim,
            holds=holds,
            measured=f"{differing:,} of {compared:,} {of} differ",
            bound="0",
            note="" if holds else note or ("" if compared else f"there were no {of} to compare"),
        )
