"""What stages must hold when they run, checked with the recipes that a plugin ships in its folder ``examples``.

``examples/*.yaml`` beside a plugin's ``__init__.py`` are recipes that run with that plugin alone, in seconds and on a
CPU. A recipe that names no launcher runs under one that the kit brings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from smolrecipe.errors import RecipeError
from smolrecipe.planning.plan import PlannedStage
from smolrecipe.running.manifest import MANIFEST_FILE
from smolrecipe.running.store import PROVENANCE_FOLDER, RunStore
from smolrecipe.running.task import CONTROL_FILES
from smolrecipe.stage import CHECKPOINTS_FOLDER, MODEL_FOLDER, TOKENIZER_FOLDER, TOKENS_FOLDER
from smolrecipe.testing.contract import Check, ContractError, broken
from smolrecipe.testing.trial import Trial, manifest
from smolrecipe_registry.discovery import plugin_entries, source_of

EXAMPLES = "examples"
"""The folder of a plugin's package with its example recipes."""

FOLDERS = {
    "tokenizer": TOKENIZER_FOLDER,
    "tokens": TOKENS_FOLDER,
    "checkpoint": CHECKPOINTS_FOLDER,
    "hf-model": MODEL_FOLDER,
}
"""Where an artifact keeps what ``produces`` names."""

_BESIDES = frozenset({"measures.json", PROVENANCE_FOLDER})
"""What ``smolrecipe run`` itself writes beside a recipe's artifacts."""

_MOST_NAMED = 3


def checks(plugin: str) -> Iterator[Check]:
    """The checks of every example recipe of an installed plugin; none where it ships none."""
    for recipe in recipes_of(plugin):
        trial = Trial(plugin, recipe)
        for name, check in _CHECKS:
            yield Check(name=f"{EXAMPLES}/{recipe.name}: {name}", run=partial(_check, check, trial))


def recipes_of(plugin: str) -> list[Path]:
    """The example recipes of an installed plugin."""
    source = source_of(plugin_entries()[plugin])
    return sorted((source / EXAMPLES).glob("*.yaml")) if source is not None and source.is_dir() else []


def _check(check: Callable[[Trial], None], trial: Trial) -> None:
    """Run a check where there is something to check.

    What keeps the example from running at all is reported by the check of that alone, and so is a run that changes the
    plugin's own source: each later run has other digests.
    """
    if check is _check_runs or (_runs(trial) and (check is _check_inside or not trial.changed_sources)):
        check(trial)


def _runs(trial: Trial) -> bool:
    try:
        return bool(trial.plan.stages) and trial.plain.returncode == 0
    except RecipeError:
        return False


def _check_runs(trial: Trial) -> None:
    try:
        stages = trial.plan.stages
    except RecipeError as error:
        broken(f"{trial.recipe} is no recipe that '{trial.plugin}' can run alone: {error}")
    if trial.plain.returncode != 0:
        broken(
            f"{trial.recipe} with its {len(stages)} stages does not run with '{trial.plugin}' alone:\n"
            f"{trial.plain.stderr.strip()}"
        )


def _check_publishes(trial: Trial) -> None:
    for stage in trial.plan.stages:
        artifact = trial.store("plain").published(stage)
        for what, folder in FOLDERS.items():
            besides = [name for name, value in stage.produces.items() if name.startswith(f"{what}@") and value is True]
            promised = stage.produces.get(what) is True
            there = any((artifact / folder).glob("*"))
            if promised and not there:
                broken(f"stage '{stage.name}' ({stage.use.name}) says that it produces '{what}', and has no {folder}/")
            if there and not promised and not (folder == CHECKPOINTS_FOLDER and _keeps_besides(stage)):
                broken(
                    f"stage '{stage.name}' ({stage.use.name}) publishes {folder}/ and does not say that it produces "
                    f"'{what}': a recipe could not use it"
                )
            for name in besides:
                kept = artifact / CHECKPOINTS_FOLDER / name.partition("@")[2] / folder
                if not any(kept.glob("*")):
                    broken(
                        f"stage '{stage.name}' says that it produces '{name}', and has no {kept.relative_to(artifact)}/"
                    )


def _keeps_besides(stage: PlannedStage) -> bool:
    return any("@" in name and value is True for name, value in stage.produces.items())


def _check_whole(trial: Trial) -> None:
    _only_whole_artifacts(trial.store("plain"))
    for stage in trial.plan.stages:
        if left := [name for name in CONTROL_FILES if (trial.store("plain").published(stage) / name).exists()]:
            broken(f"stage '{stage.name}' publishes {', '.join(left)}, which only a running stage needs")


def _check_inside(trial: Trial) -> None:
    written = {str(path) for path in (trial.folder / "work").rglob("*")}
    # What is hidden in the home folder are the caches and settings of engines.
    written |= {str(path) for path in (trial.folder / "home").iterdir() if not path.name.startswith(".")}
    written |= set(trial.changed_sources)
    expected = {stage.folder_name for stage in trial.plan.stages} | _BESIDES
    written |= {str(path) for path in trial.store("plain").root.iterdir() if path.name not in expected}
    if written:
        broken(f"a stage writes outside its folder: {_some(written)}; everything that it writes lies in context.folder")


def _check_inputs(trial: Trial) -> None:
    if not _is_whole(trial.store("plain")):
        return  # no stage starts on a damaged artifact, and which is damaged is another check's to say
    for stage in trial.plan.stages:
        result = trial.alone[stage.name]
        if result.returncode != 0:
            named = ", ".join(stage.parents) or "none"
            broken(
                f"stage '{stage.name}' ({stage.use.name}) runs in the recipe, and fails where the artifacts that its "
                f"options do not name are empty (it names: {named}): declare what it reads as a StageRef\n"
                f"{result.stderr.strip()}"
            )


def _check_bytes(trial: Trial) -> None:
    if not _is_whole(trial.store("plain")):
        return  # stages change each other's artifacts, which is another check's to say
    for stage in trial.plan.stages:
        if trial.alone[stage.name].returncode == 0:
            again = trial.store(f"alone-{stage.name}").published(stage)
            if found := _differing(trial.store("plain").published(stage), again):
                broken(
                    f"stage '{stage.name}' ({stage.use.name}) was run twice with one digest, and differs: {found}; "
                    "it follows a clock, an order that is not fixed, chance, or an artifact that it does not name"
                )


def _check_killed(trial: Trial) -> None:
    if not _is_whole(trial.store("plain")):
        return
    result = trial.killed(_only_whole_artifacts)
    if result.returncode != 0:
        broken(f"{trial.recipe} was killed and started again, and does not go on:\n{result.stderr.strip()}")
    for stage in trial.plan.stages:
        plain, again = (trial.store(store).published(stage) for store in ("plain", "killed"))
        if trial.alone[stage.name].returncode or _differing(plain, trial.store(f"alone-{stage.name}").published(stage)):
            continue  # it is not the same twice even where nobody kills it, which is another check's to say
        if found := _differing(plain, again):
            broken(
                f"stage '{stage.name}' ({stage.use.name}) was killed and run again, and differs from one that ran "
                f"through: {found}; it must go on exactly where the state in its folder was written"
            )


_CHECKS: tuple[tuple[str, Callable[[Trial], None]], ...] = (
    ("it runs", _check_runs),
    ("stages publish what they promise", _check_publishes),
    ("artifacts are whole", _check_whole),
    ("stages write in their own folder", _check_inside),
    ("stages read the artifacts they name", _check_inputs),
    ("the same twice", _check_bytes),
    ("killed, it goes on to the same", _check_killed),
)


def _only_whole_artifacts(store: RunStore) -> None:
    """Refuse a run store in which something has the name of an artifact and is none, or not the one published."""
    for name in sorted(_names(store.root)):
        folder = store.root / name
        if name.endswith(".partial") or name == PROVENANCE_FOLDER:
            continue
        if not (folder / MANIFEST_FILE).is_file():
            broken(f"{name} exists and was not published: a stage writes in context.folder alone")
        entries = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {MANIFEST_FILE}
        changed = sorted(file for file in files & set(entries) if _sha256(folder / file) != entries[file]["sha256"])
        if found := [*changed, *sorted(files ^ set(entries))]:
            broken(f"{_some(found)} of {name} was changed after it was published: artifacts of others are read only")


def _is_whole(store: RunStore) -> bool:
    try:
        _only_whole_artifacts(store)
    except ContractError:
        return False
    return True


def _names(root: Path) -> set[str]:
    return {path.name for path in root.iterdir() if path.is_dir()} if root.is_dir() else set()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _differing(one: Path, other: Path) -> str:
    """The files in which two artifacts differ, in words; nothing where they are equal."""
    first, second = manifest(one), manifest(other)
    return _some(name for name in {**first, **second} if first.get(name) != second.get(name))


def _some(names: Iterable[str]) -> str:
    """The first few of the names."""
    listed = list(names)
    more = f" and {len(listed) - _MOST_NAMED} more" if len(listed) > _MOST_NAMED else ""
    return ", ".join(listed[:_MOST_NAMED]) + more
