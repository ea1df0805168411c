"""Two sides compared: which stages, which options, what follows from them, what would run again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from smolrecipe.comparing.arithmetic import Facts, facts_of
from smolrecipe.comparing.changes import Change, changes_around, changes_of
from smolrecipe.comparing.match import Pair, match
from smolrecipe.comparing.reasons import Reason, reasons_of
from smolrecipe.comparing.sides import Side, fit


@frozen(kw_only=True)
class Comparison:
    """What differs between A and B. Stages are named as in A, those that only B has as there."""

    a: Side
    b: Side
    pairs: tuple[Pair, ...]
    changes: tuple[Change, ...]
    facts: Mapping[str, tuple[Facts, Facts]]
    """What follows for each stage, on both sides; of a stage that one side lacks, nothing there."""
    reasons: Mapping[str, tuple[Reason, ...]]
    """Why each stage that is not the same on both sides would run again."""
    measures: Mapping[tuple[str, str], tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]]
    """What published stages measured differently: (stage, measure) -> A's and B's."""

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        alone = any(pair.a is None or pair.b is None or pair.renamed for pair in self.pairs)
        return not (alone or self.changes or self.reasons or self.measures)

    @property
    def common(self) -> list[Pair]:
        """The stages that both sides have."""
        return [pair for pair in self.pairs if pair.a is not None and pair.b is not None]

    @property
    def plugins(self) -> dict[str, tuple[tuple[str, str], tuple[str, str]]]:
        """The plugins of which common stages used another version or source: name -> A's and B's."""
        found = {}
        for pair in self.common:
            assert pair.a is not None and pair.b is not None
            for name in pair.a.plugins.keys() & pair.b.plugins.keys():
                if pair.a.plugins[name] != pair.b.plugins[name]:
                    found[name] = (pair.a.plugins[name], pair.b.plugins[name])
        return dict(sorted(found.items()))


def compare(a: Side, b: Side) -> Comparison:
    """Compare two sides; with an artifact, only its stage and what it was made from.

    Raises:
        RecipeError: when one side is an artifact of a stage that the other does not have.
    """
    a, b = fit(a, b)
    pairs = match(a, b)
    names = {pair.b.name: pair.a.name for pair in pairs if pair.a is not None and pair.b is not None}
    changes: list[Change] = changes_around(a, b)
    facts: dict[str, tuple[Facts, Facts]] = {}
    reasons: dict[str, tuple[Reason, ...]] = {}
    measures: dict[tuple[str, str], tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]] = {}
    for pair in pairs:
        # What one side has counted and the other has only planned is no difference.
        recorded = all(stage is None or stage.record is not None for stage in (pair.a, pair.b))
        facts[pair.name] = (
            facts_of(pair.a, recorded=recorded) if pair.a is not None else Facts(),
            facts_of(pair.b, recorded=recorded) if pair.b is not None else Facts(),
        )
        if pair.a is not None and pair.b is not None:
            own = changes_of(pair.a, pair.b, names)
            changes.extend(own)
            if why := reasons_of(pair.a, pair.b, own, names):
                reasons[pair.name] = tuple(why)
        measures.update(_measures(pair))
    return Comparison(
        a=a, b=b, pairs=tuple(pairs), changes=tuple(changes), facts=facts, reasons=reasons, measures=measures
    )


def _measures(
    pair: Pair,
) -> dict[tuple[str, str], tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]]:
    """The measures of a stage that both sides have published, or one alone, as far as they differ."""
    sides = [stage.record if stage is not None else None for stage in (pair.a, pair.b)]
    missing = [stage is not None and stage.record is None for stage in (pair.a, pair.b)]
    if any(missing):
        return {}  # a recipe measures nothing
    a, b = ({m["name"]: m for m in record["measures"]} if record is not None else {} for record in sides)
    return {
        (pair.name, name): (a.get(name), b.get(name))
        for name in dict.fromkeys([*a, *b])
        if name not in a or name not in b or a[name]["after"] != b[name]["after"]
    }
