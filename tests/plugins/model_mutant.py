"""A change to one file of a model folder, and odd values to make one with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import field, frozen

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 7, 10**6, 10**9, 10**18, -(10**18), 10**40, 0.5, -0.5, 1e300, float("nan"),
    float("inf"), "", "x", "../../secret.txt", "/etc/passwd", "\x1b[2J", "\ud83d\ude00", "float32", "load", "__class__",
    [], [0], [1] * 5000, [[]], ["x"], {}, {"x": 1}, {"": {}}, {"__class__": "os.system"}, {"0": None},
    {"__type": "AddedToken", "content": "x"}, {"content": 5}, "{{ x }}", "a" * 100_000,
)  # fmt: skip


@frozen
class Mutant:
    """A change to one file of a model folder."""

    kind: str
    file: str
    apply: Callable[[Path], object] = field(repr=False)
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.kind} ({self.file}) {self.detail}"


def replaced(kind: str, name: str, content: bytes, detail: str = "") -> Mutant:
    """The mutant whose file has another content."""
    return Mutant(kind, name, lambda folder: (folder / name).write_bytes(content), detail)
