"""What the types of a stage's options tell of its plain data: which values are references, files, defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
from attrs import frozen

from smolrecipe.components import KINDS, StageKind
from smolrecipe.options import Model, StageRef, Use, walk, yaml_key
from smolrecipe.planning.digest import is_identity, is_ordered
from smolrecipe.recipe.nodes import Path_


@frozen(kw_only=True)
class Known:
    """Paths in a stage's options, by what lies there. Of a stage whose plugin is not installed nothing is known."""

    references: frozenset[Path_] = frozenset()
    files: frozenset[Path_] = frozenset()
    without_effect: frozenset[Path_] = frozenset()
    """What changes no result; all that lies under such a path changes none either."""
    defaults: frozenset[Path_] = frozenset()
    ordered: frozenset[Path_] = frozenset()
    """Mappings the order of whose entries changes a result."""
    components: Mapping[Path_, str] = {}
    """What each component is called: ``loss``, ``optimizer``."""

    def has_effect(self, path: Path_) -> bool:
        """Whether the value at the path changes a result, as far as is known."""
        return not any(path[:end] in self.without_effect for end in range(len(path) + 1))


def know(use: Use[StageKind]) -> Known:
    """What is known of the options of a stage."""
    walked = list(walk(use))
    return Known(
        references=frozenset(path for path, value, _ in walked if isinstance(value, StageRef)),
        files=frozenset(path for path, value, _ in walked if isinstance(value, Path)),
        without_effect=frozenset(path for path, _, metadata in walked if path and not is_identity(metadata)),
        defaults=frozenset(_defaults(use, ())),
        ordered=frozenset(
            path
            for path, value, metadata in walked
            if isinstance(value, Model) or (isinstance(value, Mapping) and is_ordered(metadata))
        ),
        components={path: KINDS[type(value.component)] for path, value, _ in walked if isinstance(value, Use)},
    )


def _defaults(value: Any, path: Path_) -> Iterator[Path_]:
    """The paths of options whose value is the one that they have where a recipe gives none."""
    if isinstance(value, Use):
        yield from _defaults_of_fields(value.options, path)
    elif isinstance(value, Model):
        for name, use in value.components.items():
            yield from _defaults(use, (*path, name))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _defaults(item, (*path, key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _defaults(item, (*path, index))
    elif attrs.has(type(value)) and not isinstance(value, StageRef):
        yield from _defaults_of_fields(value, path)


def _defaults_of_fields(options: Any, path: Path_) -> Iterator[Path_]:
    for field in attrs.fields(type(options)):
        value, own = getattr(options, field.name), (*path, yaml_key(field.name))
        default = field.default
        if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
            default = attrs.NOTHING if default.takes_self else default.factory()
        if default is not attrs.NOTHING and value == default:
            yield own
        yield from _defaults(value, own)
