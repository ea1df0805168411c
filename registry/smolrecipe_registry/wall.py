"""The wall around a plugin that is tested alone: what it may not import looks as if it were not installed.

``raise_wall`` writes what is behind the wall into a folder, with a ``sitecustomize`` that stands it up in every
interpreter started with that folder on ``PYTHONPATH``, the processes of stages and those that tests start included.
This module imports the standard library alone, because each of those interpreters imports it first.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType

_WALL_FILE = "wall.json"
_START_FILE = "sitecustomize.py"
_START = '''"""Stands up the wall around a plugin that is tested alone; written by smolrecipe_registry.wall."""

from smolrecipe_registry.wall import stand_up

stand_up(__file__)
'''


class BehindTheWallError(ModuleNotFoundError):
    """A plugin under test imported what it may not: another plugin, or a package that it does not declare."""


class Wall(importlib.abc.MetaPathFinder):
    """Refuses to import the top-level modules in ``sentences``, each with its sentence.

    Whoever only asks whether such a module is there (``importlib.util.find_spec``) is told that it is not.
    """

    def __init__(self, sentences: Mapping[str, str]) -> None:
        self.sentences = sentences

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Refuse the module, or leave it to the finders after this one."""
        sentence = self.sentences.get(fullname.partition(".")[0])
        if sentence is not None:
            raise BehindTheWallError(sentence.format(module=fullname), name=fullname)
        return None


def raise_wall(sentences: Mapping[str, str], folder: Path) -> None:
    """Write the wall into ``folder``, for interpreters that have it on ``PYTHONPATH``.

    Args:
        sentences: what is behind the wall: top-level modules, each with a sentence that says why, in which
            ``{module}`` stands for what was imported.
        folder: an empty one.
    """
    (folder / _WALL_FILE).write_text(json.dumps(sentences), encoding="utf-8")
    (folder / _START_FILE).write_text(_START, encoding="utf-8")


def stand_up(start_file: str) -> None:
    """In a starting interpreter: stand the wall up, then run the ``sitecustomize`` that this one hides."""
    folder = Path(start_file).parent
    build(json.loads((folder / _WALL_FILE).read_text(encoding="utf-8")))
    elsewhere = [entry for entry in sys.path if not entry or Path(entry).resolve() != folder.resolve()]
    hidden = importlib.machinery.PathFinder.find_spec("sitecustomize", elsewhere)
    if hidden is not None and hidden.loader is not None:
        hidden.loader.exec_module(importlib.util.module_from_spec(hidden))


def build(sentences: Mapping[str, str]) -> None:
    """Stand a wall up in this process."""
    sys.meta_path.insert(0, Wall(sentences))
    importlib.util.find_spec = _tells_of_absence(importlib.util.find_spec)


def standing() -> Wall | None:
    """The wall in this process, or ``None``."""
    return next((finder for finder in sys.meta_path if isinstance(finder, Wall)), None)


_FindSpec = Callable[[str, str | None], importlib.machinery.ModuleSpec | None]


def _tells_of_absence(find_spec: _FindSpec) -> Callable[..., importlib.machinery.ModuleSpec | None]:
    """``importlib.util.find_spec`` that finds no module behind the wall, instead of refusing to look for it."""

    @functools.wraps(find_spec)
    def find(name: str, package: str | None = None) -> importlib.machinery.ModuleSpec | None:
        try:
            return find_spec(name, package)
        except BehindTheWallError as error:
            if error.name == name and "." not in name:
                return None
            raise

    return find
