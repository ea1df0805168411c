"""Why a stage would run, or would not: what differs between it and the nearest artifact that is published of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from attrs import Factory, frozen
from cattrs import Converter

from smolrecipe.catalog import Catalog
from smolrecipe.comparing.changes import ABSENT, Change, changes_of
from smolrecipe.comparing.reasons import Reason, reasons_of
from smolrecipe.comparing.sides import Side, SideStage, side_of_record
from smolrecipe.errors import Place
from smolrecipe.planning.plan import PlannedStage
from smolrecipe.published import DIGEST_DIGITS
from smolrecipe.recipe.converter import make_converter
from smolrecipe.running.store import RunStore
from smolrecipe.stage import METRICS_FILE, read_events
from smolrecipe.strict_json import read_mapping
from smolrecipe.verifying.targets import is_artifact, parent_folders, read_record


@frozen(kw_only=True)
class Difference:
    """One thing that is not the same in the published artifact and in the plan."""

    kind: Literal["option", "plugin", "data", "parent", "name", "unknown"]
    what: str
    """The option, the plugin, the option behind which data lies, the parent."""
    old: Any = ABSENT
    new: Any = ABSENT
    place: Place | None = None
    """Where the new value is written; ``None`` for what no recipe writes."""
    order: bool = False
    """Whether it is the order of the entries that differs."""
    files: tuple[str, ...] = ()
    """The source files of a plugin that differ, where both are known file by file."""


@frozen(kw_only=True)
class Explained:
    """A stage and what differs between it and an artifact of it. Of ancestors only those that differ are explained."""

    stage: str
    artifact: Path | None = None
    """``None`` where none is in the run store."""
    started: str = ""
    differences: tuple[Difference, ...] = ()


@frozen(kw_only=True)
class Why:
    """What would become of a stage, and why."""

    stage: str
    status: Literal["published", "half done", "to run"]
    folder: Path
    """Where its artifact is, or its half-done work, or where the artifact will be."""
    since: str = ""
    """When a published artifact was made."""
    step: int | None = None
    """The step that half-done work has reached."""
    checkpoint: int | None = None
    """The step that it would go on from, where it has said so."""
    nearest: Explained | None = None
    """What is nearest to it among what is published; of a published stage itself, without differences."""
    because: tuple[Explained, ...] = ()
    """The stages that it is made from and that differ, nearest first: a root cause has no parent among its differences.
    """
    without_effect: tuple[Difference, ...] = ()
    """What differs and changes no result, of a published stage."""
    abandoned: tuple[Path, ...] = ()
    """Half-done work of the stage with other values, which it would not go on from."""


@frozen(kw_only=True)
class Explainer:
    """Explains the stages of a plan (``side``) against what is published in ``store``."""

    side: Side
    store: RunStore
    catalog: Catalog
    _records: Mapping[Path, Mapping[str, Any]] = Factory(lambda self: _records(self.store.root), takes_self=True)
    _planned: Mapping[str, SideStage] = Factory(
        lambda self: {stage.name: stage for stage in self.side.stages}, takes_self=True
    )

    _of_stage: Mapping[str, list[Path]] = Factory(
        lambda self: _grouped(self._records, lambda folder: self._records[folder]["stage"]), takes_self=True
    )
    _alike: Mapping[str, list[Path]] = Factory(
        lambda self: _grouped(self._records, lambda folder: self._records[folder]["digest"]), takes_self=True
    )
    _half_done: Mapping[str, list[Path]] = Factory(
        lambda self: _grouped(sorted(self.store.root.glob("*.partial")), _stage_of_partial), takes_self=True
    )
    _converter: Converter = Factory(lambda self: make_converter(self.catalog), takes_self=True)

    def explain(self, stage: PlannedStage) -> Why:
        """Why the stage would run, or would not."""
        planned = self._planned[stage.name]
        published, partial = self.store.published(stage), self.store.partial(stage)
        if self.store.is_published(stage):
            record = self._records.get(published, {})
            started = str(record.get("started", ""))
            return Why(
                stage=stage.name,
                status="published",
                folder=published,
                since=started,
                nearest=Explained(stage=stage.name, artifact=published, started=started),
                without_effect=tuple(self._without_effect(published, planned)) if record else (),
            )
        nearest = self._nearest(planned)
        half_done = partial.is_dir()
        events = read_events(partial / METRICS_FILE) if half_done else []
        return Why(
            stage=stage.name,
            status="half done" if half_done else "to run",
            folder=partial if half_done else published,
            step=_last(events, "step"),
            checkpoint=_last(events, "checkpoint"),
            nearest=nearest,
            because=tuple(self._ancestors(nearest)) if nearest is not None else (),
            abandoned=tuple(path for path in self._half_done.get(stage.name, ()) if path != partial),
        )

    def _nearest(self, planned: SideStage) -> Explained | None:
        """The artifact of the stage from which the least differs, the newest of several; parents count one each."""
        found = self._of_stage.get(planned.name) or self._alike.get(planned.digest, [])
        candidates = [self._compared(path, planned) for path in found]
        candidates.sort(key=lambda explained: explained.started, reverse=True)
        return min(candidates, key=lambda explained: len(explained.differences), default=None)

    def _ancestors(self, explained: Explained) -> Iterator[Explained]:
        """What the stage is made from and differs, nearest first, compared with what the artifact was made from."""
        waiting, told = [explained], {explained.stage}
        while waiting:
            child = waiting.pop(0)
            record = self._records[child.artifact] if child.artifact is not None else None
            folders = parent_folders(child.artifact, record) if child.artifact is not None and record else {}
            for difference in child.differences:
                name = difference.what
                if difference.kind != "parent" or name in told:
                    continue
                told.add(name)
                folder = folders.get(name)
                there = folder is not None and folder in self._records and name in self._planned
                found = self._compared(folder, self._planned[name]) if folder and there else Explained(stage=name)
                yield found
                waiting.append(found)

    def _compared(self, folder: Path, planned: SideStage) -> Explained:
        record = self._records[folder]
        published = side_of_record(record, self._converter)
        changes = changes_of(published, planned, {})
        files = self._source_files(record)
        reasons = reasons_of(published, planned, changes, {})
        return Explained(
            stage=planned.name,
            artifact=folder,
            started=str(record.get("started", "")),
            differences=tuple(_difference(reason, changes, published, planned, files) for reason in reasons),
        )

    def _without_effect(self, folder: Path, planned: SideStage) -> Iterator[Difference]:
        for change in changes_of(side_of_record(self._records[folder], self._converter), planned, {}):
            yield _option(change)

    def _source_files(self, record: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
        """For each plugin the source files that are others now than when the artifact was made, where that is known."""
        try:
            made_with = read_mapping(self.store.root / str(record["provenance"]))
            then = {name: dict(plugin["files"]) for name, plugin in made_with["plugins"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            return {}
        now = {name: self.catalog.loaded[name].source_files() for name in then if name in self.catalog.loaded}
        return {
            name: tuple(file for file in sorted({**then[name], **files}) if then[name].get(file) != files.get(file))
            for name, files in now.items()
        }


def _difference(
    reason: Reason,
    changes: list[Change],
    old: SideStage,
    new: SideStage,
    files: Mapping[str, tuple[str, ...]],
) -> Difference:
    about = reason.about
    if reason.kind == "option":
        return _option(next(change for change in changes if change.has_effect and _named(change) == reason.what))
    if reason.kind == "plugin":
        versions = [side.plugins.get(about) for side in (old, new)]
        same_version = None not in versions and versions[0][0] == versions[1][0]  # type: ignore[index]
        before, after = (
            ABSENT if version is None else version[1][:12] if same_version else version[0] for version in versions
        )
        return Difference(kind="plugin", what=about, old=before, new=after, files=files.get(about, ()))
    if reason.kind == "data":
        then, now = ((side.data or {}).get(about, ABSENT) for side in (old, new))
        path = tuple(about.split("."))
        place = next((new.places[path[:end]] for end in range(len(path), 0, -1) if path[:end] in new.places), None)
        return Difference(kind="data", what=about, old=then, new=now, place=place)
    if reason.kind == "parent":
        return Difference(
            kind="parent",
            what=about,
            old=old.parents.get(about, ABSENT),
            new=new.parents.get(about, ABSENT),
        )
    if reason.kind == "name":
        return Difference(kind="name", what=new.name, old=old.name, new=new.name)
    return Difference(kind="unknown", what=reason.what, old=old.digest[:12], new=new.digest[:12])


def _option(change: Change) -> Difference:
    return Difference(
        kind="option",
        what=".".join(map(str, change.path)) or "use",
        old=change.a,
        new=change.b,
        place=change.written_b,
        order=change.order,
    )


def _named(change: Change) -> str:
    return ("order of " if change.order else "") + (".".join(map(str, change.path)) or "use")


def _records(root: Path) -> dict[Path, Mapping[str, Any]]:
    """What can be read of the artifacts in a recipe's run store; damaged records are another command's to report."""
    found: dict[Path, Mapping[str, Any]] = {}
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if is_artifact(folder):
            with suppress(ValueError):
                found[folder] = read_record(folder)
    return found


def _grouped(folders: Iterable[Path], key: Callable[[Path], str]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for folder in folders:
        found.setdefault(key(folder), []).append(folder)
    return found


def _stage_of_partial(folder: Path) -> str:
    return folder.name.removesuffix(".partial")[: -DIGEST_DIGITS - 1]


def _last(events: list[dict[str, Any]], key: str) -> int | None:
    found = [event[key] for event in events if isinstance(event.get(key), int)]
    return found[-1] if found else None
