"""The plan: a recipe's stages in the order in which they run."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import Factory, frozen

from smolrecipe.components import Devices, StageKind
from smolrecipe.errors import Place
from smolrecipe.options import StageRef, Use, walk
from smolrecipe.recipe.nodes import Path_
from smolrecipe.recipe.recipe import Recipe


@frozen(kw_only=True)
class Reference:
    """One stage's wish for another's artifact: where it was written and what it needs, any one of several things."""

    ref: StageRef
    path: Path_
    needs: tuple[str, ...]


@frozen(kw_only=True)
class PlannedStage:
    """A stage with all that is known before it runs."""

    name: str
    use: Use[StageKind]
    references: tuple[Reference, ...]
    devices: Devices
    produces: Mapping[str, str | bool]
    digest: str
    place: Place

    @property
    def parents(self) -> tuple[str, ...]:
        """The stages it consumes, each once, in the order in which they are written."""
        return tuple(dict.fromkeys(reference.ref.stage for reference in self.references))

    @property
    def folder_name(self) -> str:
        """The name of its folder in the run store."""
        return f"{self.name}-{self.digest[:12]}"


@frozen(kw_only=True)
class Plan:
    """All stages of a recipe, every stage after those it consumes."""

    recipe: Recipe
    stages: tuple[PlannedStage, ...]
    by_name: Mapping[str, PlannedStage] = Factory(
        lambda self: {stage.name: stage for stage in self.stages}, takes_self=True
    )


def references(name: str, use: Use[StageKind]) -> tuple[Reference, ...]:
    """Every reference to another stage in a stage's options."""
    return tuple(
        Reference(ref=value, path=path, needs=_alternatives(metadata.get("needs") or ()))
        for path, value, metadata in walk(use, ("stages", name))
        if isinstance(value, StageRef)
    )


def _alternatives(needs: str | tuple[str, ...]) -> tuple[str, ...]:
    return (needs,) if isinstance(needs, str) else needs
