"""Random damages to what a run has published, one at a time, each of which can be undone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import frozen

from smolrecipe.components import Devices
from smolrecipe.errors import Place, StageError
from smolrecipe.options import StageRef
from smolrecipe.planning.plan import Plan, PlannedStage, Reference
from smolrecipe.published import read_record
from smolrecipe.running.inputs import Inputs
from smolrecipe.running.store import RunStore
from smolrecipe.stage import STAGE_FILE
from smolrecipe.verifying.integrity import files_as_published
from smolrecipe.verifying.targets import find_targets

KINDS = ("flip", "truncate", "remove", "add")
MANIFEST = "manifest.json"


@frozen
class Damage:
    """What is done to one file of an artifact."""

    kind: str
    folder: Path
    name: str
    detail: str
    apply: Callable[[Path], object]

    def __str__(self) -> str:
        return f"{self.kind} {self.folder.name}/{self.name} {self.detail}"

    @contextmanager
    def done(self) -> Iterator[None]:
        """The damage, for as long as the block lasts."""
        path = self.folder / self.name
        before = path.read_bytes() if path.exists() else None
        self.apply(path)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            if before is not None:
                path.write_bytes(before)


def random_damages(run: Path, seed: int, count: int) -> Iterator[Damage]:
    """Damages spread over all artifacts and files of a run, the kinds in turn."""
    draw = random.Random(seed)
    artifacts = sorted(target.folder for target in find_targets(run))
    files = [path for folder in artifacts for path in sorted(folder.rglob("*")) if path.is_file()]
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        path = draw.choice([path for path in files if kind not in ("flip", "truncate") or path.stat().st_size])
        folder = next(folder for folder in artifacts if folder in path.parents)
        yield _damage(draw, kind, folder, path.relative_to(folder).as_posix())


def _damage(draw: random.Random, kind: str, folder: Path, name: str) -> Damage:
    size = (folder / name).stat().st_size
    if kind == "flip":
        place, change = draw.randrange(size), draw.randrange(1, 256)

        def flip(path: Path) -> None:
            content = bytearray(path.read_bytes())
            content[place] ^= change
            path.write_bytes(content)

        return Damage(kind, folder, name, f"byte {place} ^ {change}", flip)
    if kind == "truncate":
        left = draw.randrange(size)
        return Damage(
            kind, folder, name, f"to {left} of {size}", lambda path: path.write_bytes(path.read_bytes()[:left])
        )
    if kind == "remove":
        return Damage(kind, folder, name, "", Path.unlink)
    beside = f"{name}{draw.choice(('.new', '.bak', '~', '.safetensors', '.json'))}"
    added = beside if draw.random() < 0.7 else f"{Path(name).parent.as_posix()}/.{draw.randrange(10**6)}"
    content = draw.randbytes(draw.choice((0, 1, 1000)))
    return Damage(
        kind, folder, added.removeprefix("./"), f"{len(content)} bytes", lambda path: path.write_bytes(content)
    )


def planned_from(run: Path) -> Plan:
    """The plan of a run, as far as its records tell it, with a consumer ``uses-<stage>`` of each artifact."""
    stages = []
    for target in find_targets(run):
        record = read_record(target.folder / STAGE_FILE)
        stages.append(_planned(record["stage"], record["digest"], record["parents"]))
    consumers = [_planned(f"uses-{stage.name}", "0" * 64, [stage.name]) for stage in stages]
    recipe: Any = None
    return Plan(recipe=recipe, stages=(*stages, *consumers))


def _planned(name: str, digest: str, parents: Any) -> PlannedStage:
    use: Any = None
    return PlannedStage(
        name=name,
        use=use,
        references=tuple(Reference(ref=StageRef(parent), path=(), needs=()) for parent in parents),
        devices=Devices(),
        produces={},
        digest=digest,
        place=Place("test"),
    )


@frozen
class Verdict:
    """Who has found a damage, and whether they named what is damaged."""

    by_verify: bool
    by_consumer: bool
    named: bool
    blamed: tuple[str, ...]
    """The stages that ``verify`` finds something wrong with."""


def judge(run: Path, plan: Plan, damage: Damage, *, all_artifacts: bool) -> Verdict:
    """What ``verify`` and the next stage say while the damage is done."""
    stage = next(stage for stage in plan.stages if stage.folder_name == damage.folder.name)
    inputs = Inputs(store=RunStore(run))
    with damage.done():
        targets = [target for target in find_targets(run) if all_artifacts or target.folder == damage.folder]
        proofs = {target.label: files_as_published(target.folder) for target in targets}
        try:
            inputs.require(plan.by_name[f"uses-{stage.name}"], plan, lambda text: None)
            refusal = ""
        except StageError as error:
            refusal = str(error)
    inputs.require(plan.by_name[f"uses-{stage.name}"], plan, lambda text: None)  # undone, it is whole again
    blamed = tuple(label for label, proof in proofs.items() if not proof.holds)
    note = proofs[stage.name].note
    # What is wrong in the manifest may look like a fault of the file that it is wrong about.
    names = [Path(damage.name).name] if damage.name != MANIFEST else [MANIFEST, " was changed", " is missing"]
    return Verdict(
        by_verify=stage.name in blamed,
        by_consumer=bool(refusal),
        named=all(any(name in text for name in names) for text in (note, refusal))
        and f"'{stage.name}'" in refusal
        and str(damage.folder) in refusal,
        blamed=blamed,
    )
