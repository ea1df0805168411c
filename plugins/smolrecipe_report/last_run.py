"""Which of a run's folders belong to its last run: earlier ones, of other values or versions, lie there too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from attrs import evolve

from smolrecipe.published import DIGEST_DIGITS, is_digest, is_stage_name
from smolrecipe.strict_json import printable, read_mapping
from smolrecipe_report.reading import Stage, read_run

_FOLDER = "provenance"
_MOST_STAGES = 1000


def last_run(run: Path) -> tuple[list[Stage], list[Stage]]:
    """The stages of the last run, each after those that it is made from, and what is left of earlier ones.

    The last run has left a document of its stages. Where there is none, each stage's newest folder counts as its own.
    """
    everything = read_run(run)
    found = {_place(stage): stage for stage in sorted(everything, key=lambda stage: stage.status != "unfinished")}
    planned = list(_planned(run))
    if any(_place(stage) in found for stage in planned):
        stages = [_with_parents(found.get(_place(stage), stage), stage) for stage in planned]
    else:
        newest = {stage.name: stage for stage in sorted(found.values(), key=_age)}
        stages = _in_order([stage for stage in found.values() if newest[stage.name] is stage])
    ours = {stage.folder for stage in stages}
    return stages, [stage for stage in everything if stage.folder not in ours]


def documents(run: Path) -> Iterator[Mapping[str, Any]]:
    """What the runs have left of their plans, machines and packages, the newest first; unreadable ones left out."""
    for file in sorted((run / _FOLDER).glob("*.json"), key=_changed, reverse=True):
        try:
            yield read_mapping(file)
        except ValueError:
            continue


def _planned(run: Path) -> Iterator[Stage]:
    """The stages of the newest document that has any, as if none had begun."""
    for document in documents(run):
        stages = document.get("stages")
        if isinstance(stages, dict) and stages:
            for name, said in list(stages.items())[:_MOST_STAGES]:
                if is_stage_name(name) and isinstance(said, dict) and is_digest(said.get("digest")):
                    yield _planned_stage(run, name, said)
            return


def _planned_stage(run: Path, name: str, said: Mapping[str, Any]) -> Stage:
    options, parents = said.get("options"), said.get("parents")
    return Stage(
        folder=run / f"{name}-{said['digest'][:DIGEST_DIGITS]}",
        name=printable(name),
        status="not begun",
        note="",
        record={},
        options=options if isinstance(options, dict) else {},
        parents={key: value for key, value in parents.items() if is_digest(value)} if isinstance(parents, dict) else {},
    )


def _with_parents(stage: Stage, planned: Stage) -> Stage:
    """A stage that is not published does not say itself what it is made from."""
    return stage if stage.record else evolve(stage, parents=planned.parents)


def _place(stage: Stage) -> str:
    """The name of the folder that it has, or will have, once it is published."""
    return stage.folder.name.removesuffix(".partial")


def _age(stage: Stage) -> tuple[bool, str]:
    return bool(stage.record), str(stage.record.get("started", ""))


def _in_order(stages: Sequence[Stage]) -> list[Stage]:
    by_folder = {_place(stage): stage for stage in stages}
    graph = {name: list(stage.parent_folders().values()) for name, stage in by_folder.items()}
    try:
        return [by_folder[name] for name in TopologicalSorter(graph).static_order() if name in by_folder]
    except CycleError:  # no run makes one
        return list(stages)


def _changed(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0
