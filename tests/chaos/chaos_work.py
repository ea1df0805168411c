"""The runs that several tests look at: one in peace, one that is watched, and those that are killed once."""

from __future__ import annotations

import random
import shutil
import sys
from concurrent.futures import Future
from pathlib import Path

from alone import UNSHARE, can_be_alone
from attrs import field, frozen
from chaos_compare import differences, step_errors
from chaos_runs import HERE, STORE, Bench, Role
from chaos_stores import Event, artifacts, changes, choose, copy_store, leftovers, run_recorded

ELSEWHERE = {"PYTHONHASHSEED": "4321", "TZ": "Asia/Kathmandu", "LC_ALL": "C", "LANG": "C", "COLUMNS": "60"}
"""An environment as different as a run may find it on the same machine."""


@frozen(kw_only=True)
class Reference:
    """An uninterrupted run of the mini recipe: its artifacts, what its processes did, and how to run it again."""

    store: Path
    record: list[Event] = field(repr=False)
    bench: Bench


@frozen(kw_only=True)
class Watched:
    """A run as users start it, recorded, with folders of its own for all that may be written."""

    folder: Path
    record: list[Event] = field(repr=False)
    unsent: int | None
    """How many packets found no way out of its network; unknown where it had to have that of the machine."""

    @property
    def store(self) -> Path:
        """Its artifacts."""
        return self.folder / "runs" / STORE


@frozen(kw_only=True)
class Case:
    """A kill of the short form: at a change to a path like ``where``."""

    stage: str
    role: Role
    where: str

    def __str__(self) -> str:
        return f"{self.stage}, {self.role}, {self.where}"


def run_reference(bench: Bench, folder: Path) -> Reference:
    """Run the mini recipe in peace."""
    record = run_recorded(bench, folder)
    return Reference(store=folder / "runs" / STORE, record=record, bench=bench)


def run_watched(folder: Path) -> Watched:
    """Run it elsewhere and alone, its stages in processes of their own."""
    for name in ("home", "tmp"):
        (folder / name).mkdir(parents=True)
    own = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp")}
    count = folder / "tmp" / "unsent"
    alone = can_be_alone()
    within = (*UNSHARE, sys.executable, "-I", "-S", str(HERE / "alone.py"), str(count)) if alone else ()
    record = run_recorded(Bench(within=within), folder, environment={**ELSEWHERE, **own})
    unsent = None
    if alone:
        unsent = int(count.read_text())
        count.unlink()
    return Watched(folder=folder, record=record, unsent=unsent)


def kill_once(case: Case, awaited: Future[Reference], folder: Path) -> list[str]:
    """Kill a stage and run again. Returns what is then not as in the reference."""
    reference = awaited.result()
    copy_store(reference.store, folder, without=[case.stage])
    found = changes(reference.record, reference.store, case.stage, case.role)
    kill = choose(found, case.stage, case.role, case.where, random.Random(str(case)))
    came = reference.bench.kill(kill, folder)
    assert came is not None, f"{kill} never came"
    reference.bench.run(folder).check(0)
    artifact = artifacts(folder / STORE)[case.stage]
    wrong = [*differences(artifacts(reference.store)[case.stage], artifact), *step_errors(artifact)]
    wrong += leftovers(folder / STORE)
    shutil.rmtree(folder)
    return [f"after a kill at {came}: {what}" for what in wrong]
