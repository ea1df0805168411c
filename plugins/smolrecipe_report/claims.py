"""Claims that a stage has judged over seeds: what was measured of both arms, and what that shows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from smolrecipe_report.reading import Stage

CLAIM_HEAD = ("claim", "in words", "verdict", "measure", "first arm", "second arm", "difference (interval)", "seeds")


def claim_rows(stages: Iterable[Stage]) -> Iterator[tuple[Any, ...]]:
    """A row for each claim of each stage that has judged some; what a record does not tell stays empty."""
    for stage in stages:
        claims = stage.summary.get("claims")
        for name, claim in claims.items() if isinstance(claims, dict) else ():
            if isinstance(claim, dict):
                yield _row(name, claim)


def _row(name: str, claim: Mapping[str, Any]) -> tuple[Any, ...]:
    arms = claim.get("arms")
    told = [_arm(arm, of) for arm, of in arms.items() if isinstance(of, dict)] if isinstance(arms, dict) else []
    first, second = (*told, "", "")[:2]
    says, verdict, measure, difference, seeds = (
        claim.get(key, "") for key in ("says", "verdict", "measure", "difference", "seeds")
    )
    interval = claim.get("interval")
    bounds = interval if isinstance(interval, list) and len(interval) == 2 else []
    between = " to ".join(_number(bound, "+.3g") for bound in bounds)
    difference = " ".join(filter(None, (_number(difference, "+.3g"), between and f"({between})")))
    return name, says, verdict, measure, first, second, difference, seeds


def _arm(name: str, arm: Mapping[str, Any]) -> str:
    return f"{_number(arm.get('mean'), '.4g')} ± {_number(arm.get('stderr'), '.2g')} ({name})"


def _number(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) and not isinstance(value, bool) else ""
