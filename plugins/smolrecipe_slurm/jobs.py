"""Which jobs a plan becomes: one for each stage that is not published, its machines, and what it waits for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from attrs import Factory, frozen

from smolrecipe import Problem, RecipeError
from smolrecipe.launching import Plan, PlannedStage, RunStore


@frozen(kw_only=True)
class Site:
    """What a cluster's users say of it, for every job."""

    options: Mapping[str, str] = Factory(dict)
    """Of sbatch, by name: partition, account, qos, time, mem, cpus-per-task."""
    more: tuple[str, ...] = ()
    """Other options of sbatch, as they are written on its command line."""
    setup: tuple[str, ...] = ()
    """Lines of shell that every job starts with."""
    gpus_per_node: int = 8
    processes_per_node: int | None = None
    """Of stages without GPUs that have several processes; all on one node where not given."""


@frozen(kw_only=True)
class Job:
    """One stage's job."""

    number: int
    stage: PlannedStage
    recipe: str
    nodes: int
    after: tuple[Job, ...]
    """Jobs of the stages that it uses, where those are not published."""

    @property
    def name(self) -> str:
        """The job's name, which is the artifact's: Slurm runs one job of a name and user at a time ('singleton')."""
        return f"{self.recipe}.{self.stage.folder_name}"

    @property
    def file(self) -> str:
        """The name of its script."""
        return f"{self.number:02}-{self.stage.name}.sbatch"

    @property
    def gpus_per_node(self) -> int:
        """GPUs that it asks for on each node."""
        devices = self.stage.devices
        return devices.processes // self.nodes if devices.device == "cuda" else 0

    @property
    def size(self) -> str:
        """What it runs on, for people."""
        processes = self.stage.devices.processes
        what = ("GPU" if self.gpus_per_node else "process") + (
            "" if processes == 1 else "s" if self.gpus_per_node else "es"
        )
        return f"{processes} {what} on {self.nodes} node{'s' * (self.nodes > 1)}"


def jobs_of(plan: Plan, store: RunStore, site: Site) -> list[Job]:
    """The jobs of the stages that are not published, each after those that it waits for.

    Raises:
        RecipeError: when a stage's processes cannot be shared evenly among nodes.
    """
    jobs: dict[str, Job] = {}
    problems = []
    for stage in plan.stages:
        if store.is_published(stage):
            continue
        nodes = _nodes(stage, site)
        if nodes is None:
            problems.append(_uneven(stage, site))
            continue
        after = tuple(jobs[parent] for parent in stage.parents if parent in jobs)
        jobs[stage.name] = Job(number=len(jobs) + 1, stage=stage, recipe=plan.recipe.name, nodes=nodes, after=after)
    if problems:
        raise RecipeError(problems)
    return list(jobs.values())


def _nodes(stage: PlannedStage, site: Site) -> int | None:
    """How many nodes the stage takes, ``None`` where its processes do not fill them."""
    processes = stage.devices.processes
    each = _per_node(stage, site)
    if processes <= each:
        return 1
    return None if processes % each else processes // each


def _per_node(stage: PlannedStage, site: Site) -> int:
    if stage.devices.device == "cuda":
        return site.gpus_per_node
    return site.processes_per_node or stage.devices.processes


def _uneven(stage: PlannedStage, site: Site) -> Problem:
    what, option = ("GPUs", "gpus") if stage.devices.device == "cuda" else ("processes", "processes")
    return Problem(
        f"stage '{stage.name}' asks for {stage.devices.processes} {what}, which do not fill nodes of "
        f"{_per_node(stage, site)}: choose another --{option}-per-node, or another layout of the stage",
        stage.place,
    )


def write(folder: Path, files: Mapping[str, str]) -> list[Path]:
    """Write the scripts, and delete those that an earlier call has left and that are no job any more.

    Raises:
        RecipeError: when the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob("[0-9][0-9]*-*.sbatch"):
            if path.name not in files:
                path.unlink()
        for name, text in files.items():
            (folder / name).write_bytes(os.fsencode(text))  # paths may hold any bytes
    except OSError as error:
        raise RecipeError([f"{folder} cannot be written ({error.strerror}): choose another with --out"]) from None
    return [folder / name for name in files]
