"""The two sides of a comparison: a recipe's plan, a run, or one artifact of it, in the same terms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, Literal

from attrs import Factory, evolve, frozen
from cattrs import Converter

from smolrecipe.catalog import Catalog
from smolrecipe.comparing.known import Known, know
from smolrecipe.components import StageKind
from smolrecipe.errors import Place, RecipeError
from smolrecipe.options import Use
from smolrecipe.planning.digest import data_behind, plugins_behind
from smolrecipe.planning.plan import Plan
from smolrecipe.recipe.converter import make_converter, unstructure
from smolrecipe.recipe.nodes import Path_
from smolrecipe.verifying.targets import is_artifact, parent_folders, read_record


@frozen(kw_only=True)
class SideStage:
    """A stage, planned or published. ``options`` are plain data with ``use``, every default in them."""

    name: str
    options: Mapping[str, Any]
    digest: str
    parents: Mapping[str, str]
    """The stages that it consumes: name -> digest."""
    plugins: Mapping[str, tuple[str, str]]
    """The plugins that it uses: name -> version and a hash of the source."""
    use: Use[StageKind] | None = None
    """The options structured, where installed plugins can."""
    places: Mapping[Path_, Place] = Factory(dict)
    data: Mapping[str, str] | None = None
    """What identifies the data behind its options, by path; ``None`` where that was not recorded."""
    record: Mapping[str, Any] | None = None
    """Of a published stage, what ``stage.json`` says."""
    known: Known = Factory(lambda self: know(self.use) if self.use is not None else Known(), takes_self=True)

    @property
    def kind(self) -> str:
        """The name of its stage kind."""
        return str(self.options["use"])


@frozen(kw_only=True)
class Side:
    """One of two things that are compared."""

    label: str
    kind: Literal["recipe", "run", "artifact"]
    stages: tuple[SideStage, ...]
    """Every stage after those it consumes."""
    main: str = ""
    """The stage of an artifact; the others are what it was made from."""
    around: Mapping[str, Any] = Factory(dict)
    """What a recipe says besides its stages and changes no result: launcher, trackers."""
    places: Mapping[Path_, Place] = Factory(dict)
    """Where that was written."""
    notes: tuple[str, ...] = ()

    def only(self, main: str) -> Side:
        """This side with nothing but one stage and what that is made from.

        Raises:
            RecipeError: when there is no such stage.
        """
        stages = {stage.name: stage for stage in self.stages}
        if main not in stages:
            raise RecipeError([f"{self.label} has no stage '{main}'; it has {', '.join(stages)}"])
        wanted: set[str] = set()
        waiting = [main]
        while waiting:
            name = waiting.pop()
            if name in stages and name not in wanted:
                wanted.add(name)
                waiting.extend(stages[name].parents)
        return evolve(self, main=main, stages=tuple(stage for stage in self.stages if stage.name in wanted), around={})

    def alone(self) -> Side:
        """This side with nothing but its main stage."""
        return evolve(self, stages=tuple(stage for stage in self.stages if stage.name == self.main))

    @property
    def whole(self) -> bool:
        """Whether everything that its stages were made from is here too."""
        names = {stage.name for stage in self.stages}
        return all(parent in names for stage in self.stages for parent in stage.parents)


def side_of_plan(plan: Plan, label: str, catalog: Catalog) -> Side:
    """A recipe as a side."""
    recipe = plan.recipe
    places_in: dict[Any, dict[Path_, Place]] = {stage.name: {} for stage in plan.stages}
    for path, place in recipe.places.items():
        if path[:1] == ("stages",) and len(path) > 1 and path[1] in places_in:
            places_in[path[1]][path[2:]] = place
    stages = tuple(
        SideStage(
            name=stage.name,
            options=unstructure(stage.use),
            digest=stage.digest,
            parents={parent: plan.by_name[parent].digest for parent in stage.parents},
            plugins={name: (version, source) for name, version, source in plugins_behind(stage.use, catalog)},
            use=stage.use,
            places=places_in[stage.name],
            data=dict(data_behind(stage.use)),
        )
        for stage in plan.stages
    )
    around = {"launcher": unstructure(recipe.launcher), "trackers": [unstructure(use) for use in recipe.trackers]}
    places = {path: place for path, place in recipe.places.items() if path[:1] != ("stages",)}
    return Side(label=label, kind="recipe", stages=stages, around=around, places=places)


def side_of_folder(folder: Path, catalog: Catalog) -> Side:
    """A run, or one artifact with what it was made from, as a side.

    Where a run has several artifacts of a stage, the newest one counts, with those that it was made from.

    Raises:
        RecipeError: when there are no artifacts, or one's record cannot be read.
    """
    if is_artifact(folder):
        found = _with_ancestors(folder)
        main = str(found[folder]["stage"])
        side = Side(label=f"artifact {folder}", kind="artifact", main=main, stages=_stages(found.values(), catalog))
        return side if side.whole else evolve(side.alone(), notes=(f"what {folder} was made from is not beside it",))
    artifacts = [path for path in sorted(folder.iterdir()) if is_artifact(path)] if folder.is_dir() else []
    if not artifacts:
        raise RecipeError([f"there is nothing to compare in {folder}: it is neither a run nor an artifact"])
    records = {path: _record(path) for path in artifacts}
    chosen: dict[str, Path] = {}

    def age(path: Path) -> tuple[str, int]:
        return str(records[path].get("started", "")), path.stat().st_mtime_ns

    for path in sorted(artifacts, key=age, reverse=True):
        family = list(_with_ancestors(path, records))
        if all(chosen.get(records[member]["stage"], member) == member for member in family):
            chosen.update({records[member]["stage"]: member for member in family})
    left_out = len(artifacts) - len(chosen)
    notes = [
        f"{folder}: {left_out} older artifacts of the same stages are left out; name one of them to compare it"
    ] * bool(left_out)
    return Side(
        label=f"run {folder}",
        kind="run",
        stages=_stages([records[path] for path in chosen.values()], catalog),
        notes=tuple(notes),
    )


def _with_ancestors(
    folder: Path, records: Mapping[Path, Mapping[str, Any]] | None = None
) -> dict[Path, Mapping[str, Any]]:
    """The record of an artifact and of all that it was made from and that lies beside it."""
    found: dict[Path, Mapping[str, Any]] = {}
    waiting = [folder]
    while waiting:
        path = waiting.pop()
        if path in found or not is_artifact(path):
            continue
        found[path] = records[path] if records and path in records else _record(path)
        waiting.extend(parent_folders(path, found[path]).values())
    return found


def _record(folder: Path) -> Mapping[str, Any]:
    try:
        return read_record(folder)
    except (OSError, ValueError) as error:
        raise RecipeError([f"{folder}: the record of the stage cannot be read: {error}"]) from None


def _stages(records: Iterable[Mapping[str, Any]], catalog: Catalog) -> tuple[SideStage, ...]:
    """The stages of records, parents first, otherwise as they were run."""
    by_name = {
        str(record["stage"]): record for record in sorted(records, key=lambda record: str(record.get("started", "")))
    }
    order = TopologicalSorter({name: list(record["parents"]) for name, record in by_name.items()}).static_order()
    converter = make_converter(catalog)
    return tuple(side_of_record(by_name[name], converter) for name in order if name in by_name)


def side_of_record(record: Mapping[str, Any], converter: Converter) -> SideStage:
    """A published stage as ``stage.json`` tells it; ``converter`` as ``make_converter`` makes it, which takes long."""
    try:
        use = converter.structure(dict(record["options"]), Use[StageKind])
    except Exception:  # the plugin is not installed, or its options are others now: the plain data can be compared
        use = None
    data = record.get("data")
    return SideStage(
        name=record["stage"],
        options=record["options"],
        digest=record["digest"],
        parents=record["parents"],
        plugins={
            name: (str(plugin.get("version", "")), str(plugin.get("source", "")))
            for name, plugin in record.get("plugins", {}).items()
        },
        use=use,
        data={str(where): str(word) for where, word in data.items()} if isinstance(data, Mapping) else None,
        record=record,
    )


def fit(a: Side, b: Side) -> tuple[Side, Side]:
    """Both sides cut to what can be compared: with an artifact, only its stage and what that is made from."""
    if b.main and not a.main:
        a = a.only(b.main)
    elif a.main and not b.main:
        b = b.only(a.main)
    if a.main and not (a.whole and b.whole):
        a, b = a.alone(), b.alone()
    return a, b
