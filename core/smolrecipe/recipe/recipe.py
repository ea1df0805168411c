"""The typed recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from attrs import Factory, frozen

from smolrecipe.components import Launcher, StageKind, Tracker
from smolrecipe.errors import Place
from smolrecipe.options import Use
from smolrecipe.recipe.nodes import Path_


@frozen(kw_only=True)
class Recipe:
    """A recipe whose every value has its type.

    ``places`` maps the path of a value, as keys and indices (``("stages", "sft", "max_length")``), to where it was
    written; values that are not in it are defaults.
    """

    name: str
    file: Path
    description: str = ""
    stages: Mapping[str, Use[StageKind]]
    launcher: Use[Launcher]
    trackers: tuple[Use[Tracker], ...] = ()
    try_instead: str = ""
    places: Mapping[Path_, Place] = Factory(dict)

    def place(self, path: Path_) -> Place:
        """Where the value at ``path`` was written, or the nearest value around it that was."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, Place(str(self.file), 1, 1))
