"""What share each source was to have in a stage, and what share of what was read it had."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from attrs import frozen

from smolrecipe_report.reading import Stage, is_number

MIXTURE_HEAD = ("stage", "source", "planned share", "seen share", "tokens seen", "tokens in the source", "passes seen")


@frozen(kw_only=True)
class Mixture:
    """The sources of a stage that mixes them: what was planned of each, what the rows that were trained on held.

    ``seen`` has tokens, and is empty where the stage has not recorded them; ``available`` has those of a pass.
    """

    stage: str
    planned: Mapping[str, float]
    seen: Mapping[str, float]
    available: Mapping[str, float]

    def seen_shares(self) -> dict[str, float]:
        """The shares of what was seen; a source that was planned and not seen has none of it."""
        total = sum(self.seen.values())
        return {name: self.seen.get(name, 0.0) / total for name in {**self.planned, **self.seen}} if total else {}


def mixtures_of(stages: Iterable[Stage]) -> list[Mixture]:
    """The mixtures of the stages that recorded the shares they were to draw."""
    found = []
    for stage in stages:
        data = stage.summary.get("data")
        sources = data.get("sources") if isinstance(data, dict) else None
        counts = (
            {str(name): of for name, of in sources.items() if isinstance(of, dict)} if isinstance(sources, dict) else {}
        )
        planned = {name: of["share"] for name, of in counts.items() if _is_share(of.get("share"))}
        if planned:
            read = stage.summary.get("read")
            found.append(
                Mixture(
                    stage=stage.name,
                    planned=planned,
                    seen=_amounts(read if isinstance(read, dict) else {}),
                    available=_amounts({name: of.get("tokens") for name, of in counts.items()}),
                )
            )
    return found


def mixture_rows(mixtures: Iterable[Mixture]) -> Iterator[tuple[Any, ...]]:
    """A row for each source of each mixture."""
    for mixture in mixtures:
        shares = mixture.seen_shares()
        for name in {**mixture.planned, **mixture.seen}:
            seen, available = mixture.seen.get(name, 0 if mixture.seen else None), mixture.available.get(name)
            passes = seen / available if seen is not None and available else None
            found = (mixture.planned.get(name), shares.get(name), seen, available, passes)
            yield mixture.stage, name, *("" if value is None else value for value in found)


def _amounts(values: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): value for name, value in values.items() if is_number(value) and 0 <= value < 1e18}


def _is_share(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1
