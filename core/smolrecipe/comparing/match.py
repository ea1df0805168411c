"""Which stage of one side is which of the other."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from smolrecipe.comparing.changes import changes_of
from smolrecipe.comparing.sides import Side, SideStage


@frozen(kw_only=True)
class Pair:
    """A stage of both sides, or of one alone."""

    a: SideStage | None
    b: SideStage | None

    @property
    def renamed(self) -> bool:
        """Whether it goes by two names."""
        return self.a is not None and self.b is not None and self.a.name != self.b.name

    @property
    def name(self) -> str:
        """A's name of it, or B's where A has none."""
        stage = self.a or self.b
        assert stage is not None
        return stage.name


def match(a: Side, b: Side) -> list[Pair]:
    """Every stage of both sides once, in A's order, and then those that only B has.

    Stages belong together by name; of the rest those that are the same to the digest, or of one kind with the same
    options, were renamed. The main stages of two artifacts belong together whatever they are called.
    """
    of_b = {stage.name: stage for stage in b.stages}
    found = {stage.name: of_b[stage.name] for stage in a.stages if stage.name in of_b}
    if a.main and b.main and a.main != b.main:
        found.pop(b.main, None)
        found[a.main] = of_b[b.main]
    taken = {stage.name for stage in found.values()}
    names = {other.name: name for name, other in found.items()}
    for stage in a.stages:
        if stage.name in found:
            continue
        rest = [other for other in b.stages if other.name not in taken]
        twin = _twin(stage, rest, names)
        if twin is not None:
            found[stage.name] = twin
            taken.add(twin.name)
            names[twin.name] = stage.name
    pairs = [Pair(a=stage, b=found.get(stage.name)) for stage in a.stages]
    return pairs + [Pair(a=None, b=other) for other in b.stages if other.name not in taken]


def _twin(stage: SideStage, others: Sequence[SideStage], names: dict[str, str]) -> SideStage | None:
    """The stage that is this one under another name. ``names`` are A's names of B's stages."""
    for other in others:
        if other.digest == stage.digest:
            return other
    for other in others:
        if other.kind == stage.kind and not any(change.has_effect for change in changes_of(stage, other, names)):
            return other
    return None
