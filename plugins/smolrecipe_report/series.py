"""Stages told as one: those that differ by the number at the end of their names alone, as seeds of one training do."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from attrs import frozen

from smolrecipe_report.drawing import in_short
from smolrecipe_report.reading import Stage

_NUMBERED = re.compile(r"(.+)-\d+")


@frozen(kw_only=True)
class Series:
    """Stages with the same options but for the seed, made from the same stages or from those of one other series.

    Most often one stage.
    """

    stages: Sequence[Stage]

    @property
    def name(self) -> str:
        """The name of the stage, or of the first and the last."""
        first, last = in_short(self.stages[0].name), in_short(self.stages[-1].name)
        return first if len(self.stages) == 1 else f"{first} to {last}"


def series_of(stages: Sequence[Stage]) -> list[Series]:
    """The series of stages that come each after those that it is made from, in the same order."""
    numbers: dict[str, int] = {}  # of series, by the folders of their stages
    found: dict[Hashable, list[Stage]] = {}
    for stage in stages:
        numbered = _NUMBERED.fullmatch(stage.name)
        what = numbered[1] if numbered else stage.place
        of_series = {name: numbers.get(folder, folder) for name, folder in stage.parent_folders().items()}
        options = _told({name: value for name, value in stage.options.items() if name != "seed"}, of_series)
        size = (stage.last_step, stage.tokens_per_step)
        members = found.setdefault((what, options, frozenset(of_series.values()), stage.status, size), [])
        numbers[stage.place] = numbers[members[0].place] if members else len(found)
        members.append(stage)
    return [Series(stages=members) for members in found.values()]


def _told(value: Any, of_series: Mapping[str, int | str]) -> str:
    """An option's value in JSON; the series stands in place of the stage that is named (``name@checkpoint``)."""

    def replaced(part: Any) -> Any:
        if isinstance(part, Mapping):
            return {key: replaced(item) for key, item in part.items()}
        if isinstance(part, list):
            return [replaced(item) for item in part]
        name, at, checkpoint = part.partition("@") if isinstance(part, str) else (part, "", "")
        return [of_series[name], at, checkpoint] if isinstance(part, str) and name in of_series else part

    return json.dumps(replaced(value), sort_keys=True, default=str)
