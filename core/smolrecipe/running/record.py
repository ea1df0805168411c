"""What an artifact says of itself in ``stage.json``: what it was made of, by what, where and when.

It stands on its own, wherever the artifact is copied. What a whole run has in common (the resolved recipe, the files of
each plugin's source) lies once in the run store, in ``provenance/<hash>.json``, and the record names that file.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attrs import Factory, frozen

from smolrecipe.catalog import Catalog, Provider
from smolrecipe.durable import write_json
from smolrecipe.errors import StageError
from smolrecipe.options import Use, walk
from smolrecipe.planning.digest import UnreadableDataError, data_behind, providers_behind, source_now, stage_digest
from smolrecipe.planning.plan import Plan, PlannedStage
from smolrecipe.provenance.document import core_identity, document, packages, seeds
from smolrecipe.provenance.machine import hardware
from smolrecipe.provenance.repository import git_state
from smolrecipe.recipe.converter import unstructure
from smolrecipe.running.redact import redact_value
from smolrecipe.running.store import PROVENANCE_FOLDER, RunStore
from smolrecipe.running.task import ATTEMPTS_FILE


@frozen(kw_only=True)
class Beginning:
    """What is known when a stage starts or goes on, for the record that it gets when it is done."""

    folder: Path
    """The stage's, while it runs."""
    data: Mapping[str, str]
    attempts: tuple[Mapping[str, str], ...]
    """When the stage was started, and the file in the run store that says with what; this time is the last."""
    at: float = Factory(time.time)


def begin(plan: Plan, stage: PlannedStage, catalog: Catalog, store: RunStore) -> Beginning:
    """Note down what a stage, whose folder is there, is about to run with.

    Raises:
        StageError: when a plugin's source or the data is not what it was when the digest was made.
    """
    try:
        data = dict(data_behind(stage.use))
        changed = list(_changed(plan, stage, catalog))
    except UnreadableDataError as error:
        raise StageError(f"stage '{stage.name}': {error}") from None
    if changed:
        raise StageError(
            f"stage '{stage.name}': {' and '.join(changed)} changed after this run was planned, so that the result "
            "would not be what its name says: run the same command again, which plans anew"
        )
    folder = store.partial(stage)
    now = {"started": _time_text(time.time()), "provenance": _write_provenance(plan, catalog, store.root)}
    attempts = (*_earlier_attempts(folder / ATTEMPTS_FILE), now)
    write_json(folder / ATTEMPTS_FILE, attempts)
    return Beginning(folder=folder, data=data, attempts=attempts)


def stage_record(
    plan: Plan, stage: PlannedStage, catalog: Catalog, result: Mapping[str, Any], beginning: Beginning
) -> dict[str, Any]:
    """The record of a stage that has just succeeded with ``result``.

    Raises:
        StageError: when the data changed while the stage ran.
    """
    _refuse_changed_data(stage, beginning)
    uses = [value for _, value, _ in walk(stage.use) if isinstance(value, Use)]
    providers = {provider.plugin: provider for provider in (catalog.provider(use.component) for use in uses)}
    record = {
        "recipe": plan.recipe.name,
        "stage": stage.name,
        "kind": stage.use.name,
        "digest": stage.digest,
        "parents": {parent: plan.by_name[parent].digest for parent in stage.parents},
        "options": unstructure(stage.use),
        "data": dict(beginning.data),
        "seeds": seeds(stage.use),
        "smolrecipe": core_identity(),
        "plugins": _identities(providers),
        "loaded": _identities(catalog.loaded),
        "packages": packages([*uses, plan.recipe.launcher], catalog),
        "git": git_state(plan.recipe.file),
        "host": {**hardware(), "python": platform.python_version()},
        **beginning.attempts[-1],
        "attempts": list(beginning.attempts),
        "seconds": round(time.time() - beginning.at, 2),
        "measures": result["measures"],
        "summary": result["summary"],
    }
    redacted: dict[str, Any] = redact_value(record)
    return redacted


def _changed(plan: Plan, stage: PlannedStage, catalog: Catalog) -> Iterator[str]:
    """What is not as it was when the stage's digest was made."""
    parents = {parent: plan.by_name[parent].digest for parent in stage.parents}
    if stage_digest(stage.use, parents, catalog, fresh=True) == stage.digest:
        return
    providers = {provider.plugin: provider for provider in providers_behind(stage.use, catalog)}
    plugins = [name for name, provider in providers.items() if source_now(provider) != provider.hash_source()]
    yield from (f"the source of plugin '{name}'" for name in plugins)
    if not plugins or stage_digest(stage.use, parents, catalog) != stage.digest:
        yield "the data behind its options"


def _refuse_changed_data(stage: PlannedStage, beginning: Beginning) -> None:
    try:
        now = dict(data_behind(stage.use))
    except UnreadableDataError as error:
        raise StageError(f"stage '{stage.name}': while it ran, its data went away: {error}") from None
    if changed := sorted(where for where in now if now[where] != beginning.data.get(where)):
        raise StageError(
            f"stage '{stage.name}': the data behind {', '.join(changed)} changed while it ran, so that nobody can say "
            "what the result was made of: put the data back as it was and run the same command again, which goes on "
            "from the stage's last checkpoint, or run it with the new data, which starts the stage anew"
        )


def _earlier_attempts(file: Path) -> list[Mapping[str, str]]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [*filter(lambda attempt: isinstance(attempt, dict), found)] if isinstance(found, list) else []


def _time_text(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")


def _write_provenance(plan: Plan, catalog: Catalog, root: Path) -> str:
    """The file with what the plan is run with here, named by its content: equal runs share one."""
    made_with = redact_value(document(plan, catalog))
    content = json.dumps(made_with, sort_keys=True, default=str).encode()
    name = f"{PROVENANCE_FOLDER}/{hashlib.sha256(content).hexdigest()[:12]}.json"
    if (root / name).is_file():
        os.utime(root / name)  # the newest is the last run's
    else:
        (root / PROVENANCE_FOLDER).mkdir(parents=True, exist_ok=True)
        write_json(root / name, made_with)
    return name


def _identities(providers: Mapping[str, Provider]) -> dict[str, dict[str, str]]:
    """Plugins by name: which distribution and version each is, and a hash of its source."""
    return {
        name: {"distribution": provider.distribution, "version": provider.version, "source": provider.hash_source()}
        for name, provider in sorted(providers.items())
    }
