"""What a stage is about to use, checked against what was published: no stage starts on a damaged artifact."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from attrs import Factory, define

from smolrecipe.errors import StageError
from smolrecipe.planning.plan import Plan, PlannedStage
from smolrecipe.published import read_record
from smolrecipe.running.manifest import Stamp, damages, look_into
from smolrecipe.running.store import RunStore
from smolrecipe.stage import STAGE_FILE

Check = Literal["full", "sizes"]
"""How artifacts are checked: every byte of every file, or only that the files are there and have the right size."""

_NAMED = 5
_WORTH_SAYING = 2**33
"""Bytes that take long enough to read for a run to say that it reads them: 8 GiB."""


@define(kw_only=True)
class Inputs:
    """Checks the artifacts that the stages of one run use, each once.

    What this run has read, or has itself just published, is not read again for the next stage: it asks the file system
    whether anything was written since (inode, size, times of change, for every file), and reads what was. A run that
    goes on for weeks thus finds what anyone does to its artifacts meanwhile. What it cannot find so is a disk that
    loses bytes by itself; the next run, and ``smolrecipe verify``, read everything. For an artifact just published,
    reading it at once would find even less: the bytes would come from memory, where they have just been hashed.
    """

    store: RunStore
    check: Check = "full"
    _right: dict[Path, Mapping[str, Stamp]] = Factory(dict)
    """Artifacts that were found whole, or were published, by this run."""

    def require(self, stage: PlannedStage, plan: Plan, say: Callable[[str], None]) -> None:
        """See to it that all that ``stage`` uses is as it was published; ``say`` is told when that takes long.

        Raises:
            StageError: naming every damaged file, its stage, and what to do.
        """
        parents = [plan.by_name[parent] for parent in stage.parents]
        wrong = [(parent, found) for parent in parents if (found := self._damages(parent, say))]
        if wrong:
            raise StageError(f"stage '{stage.name}' was not started: {_sentence(wrong, self.store)}")

    def trust(self, stage: PlannedStage) -> None:
        """Take the artifact that this run has just published for whole."""
        folder = self.store.published(stage)
        self._right[folder] = look_into(folder).stamps()

    def _damages(self, stage: PlannedStage, say: Callable[[str], None]) -> list[str]:
        folder = self.store.published(stage)
        before, now = self._right.get(folder, {}), look_into(folder).stamps()
        if now and now == before:
            return []
        if self.check == "full":
            size = sum(stamp.size for name, stamp in now.items() if before.get(name) != stamp)
            if size >= _WORTH_SAYING:
                say(f"reading what stage '{stage.name}' has published, {size / 2**30:,.0f} GiB, before it is used")
        try:
            found = damages(folder, sizes_only=self.check == "sizes", unchanged=before)
            found = found or list(_is_another(folder / STAGE_FILE, stage))
        except ValueError as error:
            return [str(error)]
        if not found:
            self._right[folder] = now
        return found


def _is_another(file: Path, stage: PlannedStage) -> Iterator[str]:
    """Say so where a whole artifact is not the one that its folder is called after."""
    record = read_record(file)
    if (record["stage"], record["digest"]) != (stage.name, stage.digest):
        yield f"{file.name} is that of another artifact: the folder was renamed"


def _sentence(wrong: Sequence[tuple[PlannedStage, Sequence[str]]], store: RunStore) -> str:
    """What is damaged where, and what to do about it."""
    told = []
    for stage, found in wrong:
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        told.append(f"of stage '{stage.name}', {', '.join(found[:_NAMED])}{more} ({store.published(stage)})")
    these = " and ".join(f"'{stage.name}'" for stage, _ in wrong)
    folders = " and ".join(str(store.published(stage)) for stage, _ in wrong)
    return (
        f"what it uses is not as it was published: {'; '.join(told)}. Restore that from a copy, or delete {folders} "
        f"and run the same command again, which repeats stage{'s' * (len(wrong) > 1)} {these} and no other: what was "
        "made from them before stays published"
    )
