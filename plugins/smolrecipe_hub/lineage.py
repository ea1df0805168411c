"""What a model was made from: its artifact and those behind it, as their records tell; and who has evaluated it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import field, frozen

from smolrecipe import RecipeError, UserError, near_miss
from smolrecipe.checkpoint import CONFIG_FILE
from smolrecipe.handing_on import MANIFEST_FILE
from smolrecipe.published import DIGEST_DIGITS, read_record
from smolrecipe.stage import MODEL_FOLDER, STAGE_FILE


@frozen(kw_only=True)
class Published:
    """A published artifact and its record."""

    folder: Path
    record: Mapping[str, Any] = field(eq=False)

    @property
    def stage(self) -> str:
        """The name of its stage."""
        return str(self.record["stage"])

    @property
    def kind(self) -> str:
        """What its stage ``use``s."""
        return str(self.record["kind"])

    @property
    def digest(self) -> str:
        """The digest of its stage, 64 digits."""
        return str(self.record["digest"])

    @property
    def options(self) -> Mapping[str, Any]:
        """Its stage's options, as the recipe would write them."""
        options: Mapping[str, Any] = self.record["options"]
        return options

    @property
    def summary(self) -> Mapping[str, Any]:
        """What its stage said of its work."""
        summary: Mapping[str, Any] = self.record["summary"]
        return summary

    @property
    def model(self) -> Path:
        """Where its Hugging Face checkpoint lies, if it has one."""
        return self.folder / MODEL_FOLDER

    @property
    def has_model(self) -> bool:
        """Whether it has a Hugging Face checkpoint."""
        return (self.model / CONFIG_FILE).is_file()


@frozen(kw_only=True)
class Lineage:
    """A model's artifact, what it was made from, and what is known besides."""

    target: Published
    stages: tuple[Published, ...]
    """Everything behind the target and the target itself, what comes first first."""
    missing: tuple[str, ...]
    """Stages behind it whose artifacts are not in the run store any more, or not readable, in sentences."""
    evaluations: tuple[Published, ...]
    """Artifacts beside it that have scored this very model."""


def find_model(run: Path, stage: str | None) -> tuple[Published, list[str]]:
    """The artifact whose model is meant, and sentences about a choice that was made.

    Args:
        run: a run (``runs/<recipe>``) or an artifact in it.
        stage: the stage; without it the one exported.

    Raises:
        RecipeError: when there is no such artifact, or it has no model.
    """
    if is_artifact(run):
        found = _read(run)
        if stage is not None and stage != found.stage:
            raise RecipeError([f"{run} is an artifact of stage '{found.stage}', not of '{stage}': leave out --stage"])
        return _with_model(found), []
    if run.suffix == ".partial":
        raise RecipeError([f"{run} is a stage that has not finished: only a published artifact is handed on"])
    if not run.is_dir():
        raise RecipeError([f"there is no folder {run}: name a run (runs/<recipe>) or an artifact in it"])
    known, damaged = _artifacts(run)
    if not known:
        what = f" ({'; '.join(damaged)})" if damaged else ""
        raise RecipeError(
            [f"{run} is neither a run nor an artifact{what}: name runs/<recipe>, or what a stage published in it"]
        )
    models = [found for found in known if found.has_model]
    names = sorted({found.stage for found in models})
    if stage is None:
        chosen = [found for found in models if found.kind == "export"]
        if len({found.stage for found in chosen}) != 1:
            why = "exports several models" if chosen else "has exported no model"
            raise RecipeError(
                [f"{run} {why}: choose with --stage among {', '.join(names) or 'none, no stage has one'}"]
            )
    else:
        chosen = [found for found in models if found.stage == stage]
        if not chosen:
            hint = near_miss(stage, names) or f"; stages with a model: {', '.join(names) or 'none'}"
            raise RecipeError([f"{run} has no published model of stage '{stage}'{hint}"])
    newest = max(chosen, key=lambda found: str(found.record["started"]))
    notes = [f"not readable, so not looked at: {sentence}" for sentence in damaged]
    if len(chosen) > 1:
        notes.append(f"{len(chosen)} artifacts of stage '{newest.stage}': taking the newest, {newest.folder.name}")
    return newest, notes


def trace(target: Published) -> Lineage:
    """What is behind an artifact, and what has scored it, from the records beside it."""
    known: dict[str, Published] = {}
    missing: dict[str, str] = {}

    waiting = [target]
    order = []
    while waiting:
        artifact = waiting.pop()
        known[artifact.digest] = artifact
        order.append(artifact)
        for name, digest in artifact.record["parents"].items():
            if digest in known or digest in missing:
                continue
            folder = target.folder.parent / f"{name}-{digest[:DIGEST_DIGITS]}"
            try:
                parent = Published(folder=folder, record=read_record(folder / STAGE_FILE))
            except ValueError:
                missing[digest] = f"{name} ({digest[:DIGEST_DIGITS]})"
                continue
            if parent.digest != digest or parent.stage != name:
                missing[digest] = f"{name} ({digest[:DIGEST_DIGITS]})"
                continue
            known[digest] = parent
            waiting.append(parent)
    beside, _ = _artifacts(target.folder.parent)
    scored = [
        found
        for found in beside
        if found.record["parents"].get(target.stage) == target.digest
        and isinstance(found.summary.get("scores"), dict)
        and isinstance(found.summary["scores"].get(target.stage), dict)
    ]
    return Lineage(
        target=target,
        stages=_in_order(known, target),
        missing=tuple(sorted(missing.values())),
        evaluations=tuple(sorted(scored, key=lambda found: str(found.record["started"]))),
    )


def is_artifact(folder: Path) -> bool:
    """Whether a folder is a published artifact, whole or damaged."""
    return folder.suffix != ".partial" and (folder / STAGE_FILE).is_file() and (folder / MANIFEST_FILE).is_file()


def _in_order(known: Mapping[str, Published], target: Published) -> tuple[Published, ...]:
    """Parents before children; of records that name each other in a circle, which no run writes, each once."""
    done: dict[str, Published] = {}
    waiting: list[tuple[Published, bool]] = [(target, False)]
    entered: set[str] = set()
    while waiting:
        artifact, ready = waiting.pop()
        if ready:
            done.setdefault(artifact.digest, artifact)
            continue
        if artifact.digest in entered:
            continue
        entered.add(artifact.digest)
        waiting.append((artifact, True))
        behind = [known[digest] for digest in artifact.record["parents"].values() if digest in known]
        waiting += [(parent, False) for parent in reversed(behind)]
    return tuple(done.values())


def _artifacts(run: Path) -> tuple[list[Published], list[str]]:
    """The artifacts of a run, by name, and a sentence for each that cannot be read."""
    found, damaged = [], []
    for folder in sorted(path for path in run.iterdir() if path.is_dir() and is_artifact(path)):
        try:
            found.append(Published(folder=folder, record=read_record(folder / STAGE_FILE)))
        except ValueError as error:
            damaged.append(str(error))
    return found, damaged


def _read(folder: Path) -> Published:
    try:
        return Published(folder=folder, record=read_record(folder / STAGE_FILE))
    except ValueError as error:
        raise UserError(f"{error}; 'smolrecipe verify {folder}' says what else is damaged") from None


def _with_model(found: Published) -> Published:
    if not found.has_model:
        raise RecipeError(
            [f"stage '{found.stage}' ({found.kind}) has published no model: there is no {found.model / CONFIG_FILE}"]
        )
    return found
