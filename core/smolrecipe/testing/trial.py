"""Runs of a plugin's example recipe with that plugin alone: plain, killed and run again, and with artifacts hidden.

Every run is ``python -m smolrecipe run`` in a process of its own, in a temporary folder, with no other plugin loaded.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import site
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from smolrecipe.components import Launcher
from smolrecipe.planning.make import make_plan
from smolrecipe.planning.plan import Plan, PlannedStage
from smolrecipe.recipe.compose import compose
from smolrecipe.recipe.structure import structure
from smolrecipe.running.manifest import MANIFEST_FILE
from smolrecipe.running.store import LOG_FILE, RunStore
from smolrecipe.stage import METRICS_FILE, STAGE_FILE, read_events
from smolrecipe.testing import interruption, one_process
from smolrecipe_registry.discovery import GROUP, load_registry
from smolrecipe_registry.restriction import RESTRICTION

LONGEST_SECONDS = 120
"""How long one run of an example may take; it is meant to take a few."""

WITH_TIMES = frozenset({STAGE_FILE, LOG_FILE, METRICS_FILE})
"""Files of an artifact that tell when it was made, and so differ each time."""


class Trial:
    """An example recipe of an installed plugin, and its runs; each is made once, when it is asked for."""

    def __init__(self, plugin: str, recipe: Path) -> None:
        self.plugin = plugin
        self.recipe = recipe
        self.changed_sources: list[str] = []
        """Files of the plugin's package that the plain run has written, changed or removed."""

    @functools.cached_property
    def folder(self) -> Path:
        """The temporary folder of all runs: ``work`` is where they run, ``home`` is their home folder."""
        self._temporary = tempfile.TemporaryDirectory(prefix="smolrecipe-example-")
        folder = Path(self._temporary.name)
        for name in ("work", "home"):
            (folder / name).mkdir()
        info = folder / "site" / "smolrecipe_kit-0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: smolrecipe_kit\nVersion: 0\n")
        targets = "".join(f"{plugin.NAME} = {plugin.__name__}\n" for plugin in (one_process, interruption))
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{targets}")
        return folder

    @functools.cached_property
    def lacks_launcher(self) -> bool:
        """Whether the plugin brings no launcher of the default's name, so that the kit does."""
        return one_process.LAUNCHER not in load_registry((self.plugin,)).catalog.names(Launcher)

    @functools.cached_property
    def plan(self) -> Plan:
        """The recipe's plan, made here.

        Raises:
            RecipeError: with what is wrong with the recipe.
        """
        registry = load_registry((self.plugin,), extra=[(one_process.NAME, one_process)] if self.lacks_launcher else [])
        recipe = structure(compose(self.recipe), self.recipe, registry.catalog)
        return make_plan(recipe, registry.catalog, registry.manager.hook)

    def store(self, name: str) -> RunStore:
        """The run store of one of the runs."""
        return RunStore(self.folder / name / self.plan.recipe.name)

    @functools.cached_property
    def plain(self) -> subprocess.CompletedProcess[str]:
        """A run of the whole recipe, in the store ``plain``."""
        before = _snapshot(self.recipe.parent.parent)
        finished = self._run("plain")
        after = _snapshot(self.recipe.parent.parent)
        self.changed_sources = sorted({path for path, _ in before ^ after})
        return finished

    @functools.cached_property
    def alone(self) -> dict[str, subprocess.CompletedProcess[str]]:
        """For each stage a run of it where of all artifacts only those that it names have content.

        A stage's run is in the store ``alone-<stage>``, its artifact is made anew.
        """
        finished = {}
        for stage in self.plan.stages:
            store = self.store(f"alone-{stage.name}")
            store.root.mkdir(parents=True)
            for other in self.plan.stages:
                if other is not stage:
                    _bring(self.store("plain").published(other), store.published(other), other.name in stage.parents)
            finished[stage.name] = self._run(f"alone-{stage.name}")
        return finished

    def killed(self, after_kill: Callable[[RunStore], None]) -> subprocess.CompletedProcess[str]:
        """A run in the store ``killed`` whose stages are killed (SIGKILL) twice each, and then left to end.

        Each stage is killed when it has reported half of its steps (or half of its time has passed), and once more when
        it has done all its work and nothing is published yet. ``after_kill`` is called with the store each time.
        """
        store = self.store("killed")
        for stage in self.plan.stages:
            for moment in (self._half_way(stage), {}):
                self._run("killed", {"stage": stage.name, **moment})
                after_kill(store)
                if store.is_published(stage):
                    shutil.rmtree(store.published(stage))  # it had ended before half of its time was over
        return self._run("killed")

    def _half_way(self, stage: PlannedStage) -> dict[str, float]:
        plain = self.store("plain").published(stage)
        steps = [event["step"] for event in read_events(plain / METRICS_FILE) if "step" in event]
        if len(steps) > 1:
            return {"step": steps[(len(steps) - 1) // 2]}
        return {"seconds": json.loads((plain / STAGE_FILE).read_text())["seconds"] / 2}

    def _run(self, store: str, kill: Mapping[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
        """Run the recipe in a store of that name; ``kill`` is the moment in which a stage's process is killed."""
        plugins = [self.plugin, *([one_process.NAME] if self.lacks_launcher else [])]
        outer = [str(Path(path).absolute()) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(self.folder / "site"), *outer]),
            "PYTHONUSERBASE": site.getuserbase(),  # which would follow HOME
            "HOME": str(self.folder / "home"),
            RESTRICTION: ",".join([*plugins, interruption.NAME] if kill else plugins),
            interruption.KILL: json.dumps(kill or {}),
        }
        command = [sys.executable, "-m", "smolrecipe", "run", str(self.recipe), "--runs", str(self.folder / store)]
        try:
            return subprocess.run(
                command,
                cwd=self.folder / "work",
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=LONGEST_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            said = f"not done after {LONGEST_SECONDS} s, and an example is meant to take a few"
            return subprocess.CompletedProcess(command, 1, "", said)


def manifest(artifact: Path) -> dict[str, str]:
    """The files that a published artifact says it has, with the sha256 of each; those that tell times are left out."""
    entries: dict[str, Any] = json.loads((artifact / MANIFEST_FILE).read_text(encoding="utf-8"))
    return {name: entry["sha256"] for name, entry in sorted(entries.items()) if name not in WITH_TIMES}


def _bring(artifact: Path, place: Path, whole: bool) -> None:
    """Copy an artifact, or only what says that there is one, without its content."""
    if whole:
        shutil.copytree(artifact, place)
        return
    place.mkdir()
    for name in (MANIFEST_FILE, STAGE_FILE):
        shutil.copy2(artifact / name, place / name)


def _snapshot(package: Path) -> set[tuple[str, tuple[int, int]]]:
    """The files of a package, with the size and the time of change of each."""
    files = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {(str(path), (path.stat().st_size, path.stat().st_mtime_ns)) for path in files}
