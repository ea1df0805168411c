"""The branches that the models on the way to a model become, named as SmolLM3's are.

HuggingFaceTB/SmolLM3-3B-checkpoints has ``stage1-step-40000``, counted over the whole learning-rate trajectory,
``lc-4k-to-32k-step-4000``, counted within the stage, and ``it-mid-training``, ``it-SFT``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from attrs import frozen

from smolrecipe import UserError
from smolrecipe.checkpoint import CONFIG_FILE
from smolrecipe.stage import CHECKPOINTS_FOLDER, MODEL_FOLDER
from smolrecipe_hub.facts import mapping, row_length, whole
from smolrecipe_hub.lineage import Lineage, Published

_BRANCH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")
_STEP = re.compile(r"step-(\d+)")


@frozen(kw_only=True)
class Revision:
    """A model that becomes a branch."""

    name: str
    artifact: Published
    folder: str
    """Where the model lies in its artifact."""
    checkpoint: str
    """What it is of its stage, empty for the stage's last."""


def revisions_of(lineage: Lineage) -> list[Revision]:
    """A revision for every published model behind the target, in the order in which they were made.

    Raises:
        UserError: when a stage's name makes no name of a branch, or two make the same.
    """
    found: list[Revision] = []
    prefixes = _prefixes(lineage)
    for artifact in lineage.stages:
        if artifact.kind != "pretrained_model":  # somebody else's, and where they have published it
            found += _of(artifact, prefixes.get(artifact.stage), is_target=artifact is lineage.target)
    names = [revision.name for revision in found]
    for name in names:
        if _BRANCH.fullmatch(name) is None or ".." in name or name.endswith((".", ".lock")):
            raise UserError(
                f"{name!r} is no name of a branch: rename that stage in the recipe, or leave out --revisions"
            )
        if names.count(name) > 1:
            raise UserError(f"two models would become the revision '{name}': rename one of their stages")
    return found


def _of(artifact: Published, prefix: str | None, *, is_target: bool) -> Iterator[Revision]:
    def revision(name: str, folder: str, checkpoint: str = "") -> Revision:
        return Revision(name=name, artifact=artifact, folder=folder, checkpoint=checkpoint)

    for label in _checkpoints(artifact):
        folder = f"{CHECKPOINTS_FOLDER}/{label}/{MODEL_FOLDER}"
        step = _STEP.fullmatch(label)
        kept = whole(mapping(artifact.summary.get("kept")).get(label))
        number = int(step[1]) if step else kept
        tail = f"step-{number}" if number is not None else label
        what = f"step {number}" if number is not None else label
        yield revision(f"{prefix or f'it-{artifact.stage}'}-{tail}", folder, what)
    if artifact.has_model and not is_target:
        first, steps = whole(artifact.summary.get("first_step")), whole(artifact.summary.get("steps"))
        if prefix is None:
            yield revision(f"it-{artifact.stage}", MODEL_FOLDER)
        elif steps is not None:
            yield revision(f"{prefix}-step-{(first or 1) + steps - 1}", MODEL_FOLDER)
        else:
            yield revision(prefix, MODEL_FOLDER)


def _checkpoints(artifact: Published) -> list[str]:
    """The names of checkpoints that the stage has published as models besides its last, by step where they have one."""
    found = [file.parts[-3] for file in artifact.folder.glob(f"{CHECKPOINTS_FOLDER}/*/{MODEL_FOLDER}/{CONFIG_FILE}")]

    def order(label: str) -> tuple[int, str]:
        step = _STEP.fullmatch(label)
        return (int(step[1]) if step else 0, label)

    return sorted(found, key=order)


def _prefixes(lineage: Lineage) -> Mapping[str, str]:
    """How the revisions of each pretraining stage begin: ``stage1``, ``stage2``, ``lc-4k-to-32k``."""
    pretraining = {
        artifact.stage: artifact for artifact in lineage.stages if whole(artifact.options.get("sequence_length"))
    }
    prefixes, number = {}, 0
    for name, artifact in pretraining.items():
        before = pretraining.get(str(artifact.options.get("from")).partition("@")[0])
        shorter, length = (row_length(before) if before is not None else None), row_length(artifact)
        if shorter is not None and length is not None and length > shorter:
            prefixes[name] = f"lc-{_short(shorter)}-to-{_short(length)}"
        else:
            number += 1
            prefixes[name] = f"stage{number}"
    return prefixes


def _short(length: int) -> str:
    return f"{length // 1024}k" if length % 1024 == 0 else str(length)
