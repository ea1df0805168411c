"""Stages told as one: those that differ by the number at the end of their names alone, as seeds of one training do."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence

from attrs import frozen

from smolrecipe_report.drawing import in_short
from smolrecipe_report.reading import Stage

_NUMBERED = re.compile(r"(.+)-\d+")


@frozen(kw_only=True)
class Series:
    """Stages of one kind and size, made from the same stages or from those of one other series; most often one."""

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
        what = (numbered[1], stage.options.get("use")) if numbered else stage.place
        parents = frozenset(numbers.get(folder, folder) for folder in stage.parent_folders().values())
        size = (stage.last_step, stage.tokens_per_step, stage.row_length, stage.theta)
        members = found.setdefault((what, parents, stage.status, size), [])
        numbers[stage.place] = numbers[members[0].place] if members else len(found)
        members.append(stage)
    return [Series(stages=members) for members in found.values()]
