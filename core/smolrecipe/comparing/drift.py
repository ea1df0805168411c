"""What is not as a lock file says: values, plugins, packages, data, Python. Machine and repository are told besides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from attrs import evolve, frozen
from cattrs import Converter

from smolrecipe.catalog import Catalog
from smolrecipe.comparing.changes import ABSENT, Change, changes_of
from smolrecipe.comparing.reasons import reasons_of
from smolrecipe.comparing.sides import Side, SideStage, side_of_record
from smolrecipe.errors import Place, Problem
from smolrecipe.provenance.lock_file import Lock, LockedPlugin
from smolrecipe.recipe.converter import make_converter
from smolrecipe.recipe.sweep_names import value_text
from smolrecipe.strict_json import printable

_AGAIN = "or lock again"
_LONGEST = 60
_FILES_NAMED = 5


@frozen(kw_only=True)
class Drift:
    """What differs from a lock file."""

    problems: tuple[Problem, ...]
    """What may change a result, each with what to do."""
    notes: tuple[str, ...]
    """What changes none, or none that anybody could undo: values without effect, the machine, the repository."""


def drift(lock: Lock, now: Lock, planned: Side, catalog: Catalog) -> Drift:
    """What differs between a lock file and the same document of ``planned`` on this machine, ``now``."""
    problems: list[Problem] = []
    notes: list[str] = []
    if lock.recipe != now.recipe:
        problems.append(Problem(f"the lock file is of recipe '{lock.recipe}', and this is '{now.recipe}'"))
    stages = {stage.name: stage for stage in planned.stages}
    problems.extend(Problem(f"stage '{name}' is locked and not in the recipe: put it back, {_AGAIN}")
                    for name in lock.stages if name not in stages)  # fmt: skip
    converter = make_converter(catalog)
    for name, stage in stages.items():
        if name not in lock.stages:
            place = stage.places.get(())
            problems.append(Problem(f"stage '{name}' is not in the lock file: take it out, {_AGAIN}", place))
            continue
        then = _locked_side(name, lock, converter)
        here = evolve(stage, options=now.stages[name].options)
        changes = changes_of(then, here, {})
        problems.extend(_stage_problems(then, here, changes))
        notes.extend(_change_text(f"stages.{name}", change) for change in changes if not change.has_effect)
    problems.extend(_plugin_problems(lock, now))
    problems.extend(_package_problems(lock, now))
    problems.extend(_python_problems(lock.python, now.python))
    notes.extend(_differences("", lock.around, now.around))
    notes.extend(_differences("git", lock.git or {}, now.git or {}))
    notes.extend(_differences("hardware", lock.hardware, now.hardware))
    if lock.python != now.python:
        notes.extend(_differences("", {"python": lock.python}, {"python": now.python}))
    return Drift(problems=tuple(problems), notes=tuple(notes))


def _locked_side(name: str, lock: Lock, converter: Converter) -> SideStage:
    stage = lock.stages[name]
    plugins = {plugin: lock.plugins[plugin] for plugin in stage.plugins if plugin in lock.plugins}
    record = {
        "stage": name,
        "options": stage.options,
        "digest": stage.digest,
        "parents": stage.parents,
        "data": stage.data,
        "plugins": {plugin: {"version": locked.version, "source": locked.source} for plugin, locked in plugins.items()},
    }
    return side_of_record(record, converter)


def _stage_problems(then: SideStage, here: SideStage, changes: list[Change]) -> Iterator[Problem]:
    reasons = reasons_of(then, here, changes, {})
    for change in changes:
        if change.has_effect:
            place = change.written_b or here.places.get(())
            yield Problem(f"{_change_text(f'stages.{then.name}', change)}: set it back, {_AGAIN}", place)
    for reason in reasons:
        if reason.kind == "data":
            old, new = ((side.data or {}).get(reason.about, "nothing") for side in (then, here))
            yield Problem(
                f"the data behind stages.{then.name}.{reason.about} is not what was locked ({_short(old)} -> "
                f"{_short(new)}): bring it back, {_AGAIN}",
                _nearest_place(here, reason.about),
            )
        elif reason.kind == "unknown":
            yield Problem(
                f"stage '{then.name}' has another digest ({then.digest[:12]} -> {here.digest[:12]}), for nothing that "
                "the lock file tells: lock again"
            )


def _nearest_place(stage: SideStage, option: str) -> Place | None:
    path = tuple(option.split("."))
    return next((stage.places[path[:end]] for end in range(len(path), -1, -1) if path[:end] in stage.places), None)


def _plugin_problems(lock: Lock, now: Lock) -> Iterator[Problem]:
    from smolrecipe.provenance.packages import normal_name

    named = {plugin for stage in lock.stages.values() for plugin in stage.plugins}
    for name in dict.fromkeys([*lock.plugins, *now.plugins]):
        then, here = lock.plugins.get(name), now.plugins.get(name)
        if then is None:
            yield Problem(
                f"plugin '{name}' takes part and is not in the lock file: leave it out with --plugins, {_AGAIN}"
            )
        elif here is None:
            if name not in named:  # otherwise the option says it that no longer names a component of it
                yield Problem(f"plugin '{name}' is locked and takes no part here: {_install(then)}, {_AGAIN}")
        elif (then.distribution, then.version) != (here.distribution, here.version):
            if normal_name(here.distribution) not in now.packages or then.distribution != here.distribution:
                yield Problem(
                    f"plugin '{name}' is {here.distribution} {here.version}, and locked as {then.distribution} "
                    f"{then.version}: {_install(then)}, {_AGAIN}"
                )
        elif then.source != here.source:
            yield Problem(
                f"the source of plugin '{name}' is not what was locked ({then.source[:12]} -> {here.source[:12]}"
                f"{_files(then.files, here.files)}): bring it back, {_AGAIN}"
            )
    if lock.smolrecipe.source != now.smolrecipe.source and lock.smolrecipe.version == now.smolrecipe.version:
        yield Problem(
            f"the source of smolrecipe itself is not what was locked ({lock.smolrecipe.source[:12]} -> "
            f"{now.smolrecipe.source[:12]}): bring it back, {_AGAIN}"
        )


def _install(plugin: LockedPlugin) -> str:
    return f"pip install '{plugin.distribution}=={plugin.version}'" if plugin.distribution else "install it"


def _files(then: Mapping[str, str], here: Mapping[str, str]) -> str:
    changed = [name for name in sorted({**then, **here}) if then.get(name) != here.get(name)]
    more = f" and {len(changed) - _FILES_NAMED} more" if len(changed) > _FILES_NAMED else ""
    return f": {', '.join(changed[:_FILES_NAMED])}{more}" if changed else ""


def _package_problems(lock: Lock, now: Lock) -> Iterator[Problem]:
    for name in sorted({**lock.packages, **now.packages}):
        then, here = lock.packages.get(name), now.packages.get(name)
        if then is None:
            yield Problem(f"package '{name}' {here} is required here and not in the lock file: lock again")
        elif here is None:
            yield Problem(f"package '{name}' is not here, and locked at {then}: pip install '{name}=={then}', {_AGAIN}")
        elif then != here:
            yield Problem(f"package '{name}' is {here}, and locked at {then}: pip install '{name}=={then}', {_AGAIN}")


def _python_problems(then: str, here: str) -> Iterator[Problem]:
    """Another implementation or minor version; what the last number says is only noted."""
    if then.split(".")[:2] != here.split(".")[:2]:
        yield Problem(f"this is {here}, and locked is {then}: run with that Python, {_AGAIN}")


def _differences(label: str, then: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    for key in dict.fromkeys([*then, *here]):
        if then.get(key) != here.get(key):
            yield f"{label} {key}: {_text(then.get(key))} -> {_text(here.get(key))}".strip()


def _change_text(label: str, change: Change) -> str:
    path = ".".join(map(str, (label, *change.path)))
    return f"{'the order of ' * change.order}{path} is not what was locked ({_text(change.a)} -> {_text(change.b)})"


def _text(value: Any) -> str:
    if value is ABSENT or value is None:
        return "nothing"
    text = printable(" ".join(value_text(value).split()) or '""')
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _short(word: str) -> str:
    return _text(word[:12] if len(word) == 64 else word)
