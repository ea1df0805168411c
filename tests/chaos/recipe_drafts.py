"""A recipe on its way to becoming a mutant: its files, and its tree, which is written back as YAML that may be broken.

PyYAML's nodes are the tree: a mapping is a list of pairs, so that keys can occur twice, and a node that occurs twice
becomes an anchor with an alias.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import yaml
from attrs import Factory, define, frozen

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TEXT = "tag:yaml.org,2002:str"

FREE = frozenset(
    [
        "stages",
        "model",
        "weights",
        "sources",
        "token_names",
        "columns",
        "problems",
        "components",
        "held_out",
        "parameters",
        "data",
    ]
)
"""Keys under which keys are names that a recipe chooses."""


@frozen(kw_only=True)
class Base:
    """A recipe that is right: its files, ``main`` the one to validate, and the plugins it is for."""

    name: str
    main: str
    files: dict[str, bytes]
    plugins: str


@frozen
class Slot:
    """Where a value stands: its path, and the node and index that hold it."""

    path: tuple[str, ...]
    holder: yaml.Node
    index: int

    @property
    def value(self) -> yaml.Node:
        """What stands there."""
        entry = self.holder.value[self.index]
        return entry[1] if isinstance(entry, tuple) else entry

    def put(self, node: yaml.Node) -> None:
        """Let something else stand there."""
        entry = self.holder.value[self.index]
        self.holder.value[self.index] = (entry[0], node) if isinstance(entry, tuple) else node

    @property
    def free(self) -> bool:
        """Whether its key is a name that the recipe chooses, as far as the path tells."""
        keys = {key.value for key, _ in self.holder.value} if isinstance(self.holder, yaml.MappingNode) else set()
        above = self.path[-2] if len(self.path) > 1 else ""
        return "use" not in keys and (above in FREE or (not above and not keys & _TOP))


_TOP = frozenset(("name", "stages"))


@define(kw_only=True)
class Draft:
    """What a mutation works on. ``refused`` says that no recipe like this may pass, ``why`` what was done to it."""

    random: Random
    base: Base
    files: dict[str, bytes]
    settings: list[str] = Factory(list)
    sweeps: list[str] = Factory(list)
    refused: bool = False
    why: str = ""
    _raws: dict[str, str] = Factory(dict)

    def pick_file(self) -> str:
        """The main file mostly, one that it extends now and then."""
        others = sorted(file for file in self.files if file.endswith(".yaml") and file != self.base.main)
        return self.random.choice(others) if others and self.random.random() < 0.15 else self.base.main

    def tree(self, file: str) -> yaml.Node:
        """The file's tree."""
        return yaml.compose(self.files[file], Loader=_LOADER)

    def slots(self, root: yaml.Node, keep: Callable[[Slot], Any] = lambda slot: True) -> list[Slot]:
        """All values of the tree that ``keep`` wants."""
        return [slot for slot in _slots(root, ()) if keep(slot)]

    def pick(self, root: yaml.Node, keep: Callable[[Slot], Any] = lambda slot: True) -> Slot:
        """One of them."""
        return self.random.choice(self.slots(root, keep) or self.slots(root))

    def raw(self, text: str) -> yaml.ScalarNode:
        """A node that is written as ``text``, whatever that is in YAML."""
        mark = f"RAW{len(self._raws)}RAW"
        self._raws[mark] = text
        return yaml.ScalarNode(_TEXT, mark)

    def write(self, file: str, root: yaml.Node) -> None:
        """The tree as the file's new content, in block style mostly."""
        if self.random.random() < 0.1:
            root.flow_style = True
        text = yaml.serialize(root, Dumper=yaml.SafeDumper, allow_unicode=True, width=100_000)
        for mark, raw in self._raws.items():
            text = text.replace(mark, raw)
        self.files[file] = text.encode("utf-8", errors="surrogatepass")


def _slots(node: yaml.Node, path: tuple[str, ...]) -> Iterator[Slot]:
    if isinstance(node, yaml.ScalarNode):
        return
    for index, entry in enumerate(node.value):
        key, child = (entry[0].value, entry[1]) if isinstance(entry, tuple) else (str(index), entry)
        yield Slot((*path, key), node, index)
        yield from _slots(child, (*path, key))


def quoted(text: str) -> yaml.ScalarNode:
    """A text in double quotes, so that everything that YAML can say may be in it."""
    return yaml.ScalarNode(_TEXT, text, style='"')


def lay_out(folder: Path, files: dict[str, bytes]) -> None:
    """Write a mutant's files, and beside them what paths of ``hostile_text`` lead to: pipes, loops, devices."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for file in {folder / name for name in files}:
        _odd_things(file.parent)


def _odd_things(folder: Path) -> None:
    if (folder / "pipe").exists():
        return
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    (folder / "loop-a").symlink_to("loop-b")
    (folder / "loop-b").symlink_to("loop-a")
    (folder / "here").symlink_to(".")
    (folder / "folder.yaml").mkdir()
    (folder / "unreadable").touch(mode=0)
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(folder):  # an address has at most 108 bytes
        listener.bind("socket")
