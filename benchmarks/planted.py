"""A plugin whose stages do nothing, for what is measured around stages: laid out as pip would, in a folder.

``use: nothing`` takes a ``number``, which tells stages apart, and the stages that it comes ``after``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from measuring import in_process

_PLUGIN = """\
from attrs import frozen

import smolrecipe
from smolrecipe import Artifact, StageKind, StageRef, option


@frozen(kw_only=True)
class NothingOptions:
    number: int = option(doc="tells stages apart")
    after: list[StageRef] = option(factory=list, doc="stages that come first")


@smolrecipe.hookimpl
def smolrecipe_stages():
    yield StageKind(
        name="nothing",
        summary="does nothing",
        options=NothingOptions,
        produces=lambda options: {},
        run=lambda options, context: Artifact(summary={"number": options.number}),
    )
"""


def plant(folder: Path) -> dict[str, str]:
    """Lay the plugin out in ``folder``; returns the environment in which it is found."""
    package, info = folder / "smolrecipe_nothing", folder / "smolrecipe_nothing-1.0.dist-info"
    package.mkdir(parents=True)
    info.mkdir()
    (package / "__init__.py").write_text(_PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: smolrecipe-nothing\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[smolrecipe]\nnothing = smolrecipe_nothing\n")
    return {"PYTHONPATH": str(folder)}


TOGETHER = 20
"""Stages that are published by one run: what one costs besides itself grows with those of its recipe."""


def recipe(first: int, last: int) -> str:
    """A recipe of the stages with these numbers: each but the first of every ``TOGETHER`` comes after one of them."""
    lines = []
    for number in range(first, last + 1):
        before = number // TOGETHER * TOGETHER + number % TOGETHER // 2
        after = f"[stage-{before}]" if before < number else "[]"
        lines.append(f"  stage-{number}: {{use: nothing, number: {number}, after: {after}}}")
    return "\n".join(["name: nothing", "launcher: {use: local}", "stages:", *lines, ""])


class Published(NamedTuple):
    """A folder with a run store in which stages are published."""

    folder: Path
    environment: dict[str, str]

    @property
    def runs(self) -> list[str]:
        """The arguments that name the run store."""
        return ["--runs", str(self.folder / "runs")]

    def recipe(self, stages: int) -> Path:
        """A recipe of the first so many stages."""
        file = self.folder / f"{stages}.yaml"
        file.write_text(recipe(0, stages - 1))
        return file


def publish_stages(folder: Path, stages: int) -> Published:
    """Publish so many stages in a folder, and the plugin that has them."""
    environment = plant(folder / "site")
    for first in range(0, stages, TOGETHER):
        file = folder / "part.yaml"
        file.write_text(recipe(first, min(first + TOGETHER, stages) - 1))
        in_process([sys.executable, __file__, str(file), str(folder / "runs")], **environment)
    return Published(folder, environment)


def publish(recipe_file: Path, runs: Path) -> None:
    """Run a recipe of such stages, each in this process instead of in one of its own: they take no time."""
    from smolrecipe.cli import main
    from smolrecipe.cli.session import Session
    from smolrecipe.running import runner
    from smolrecipe.running.task import Task
    from smolrecipe.running.worker import run_task

    registry = Session(None).registry

    def run_here(command: Sequence[str], *also: Any, **named: Any) -> int:
        return run_task(Task.read(Path(command[-1])), registry.catalog, registry.manager.hook)

    with mock.patch.object(runner, "run_processes", run_here):
        main(["run", str(recipe_file), "--runs", str(runs)])


if __name__ == "__main__":
    publish(*map(Path, sys.argv[1:]))
