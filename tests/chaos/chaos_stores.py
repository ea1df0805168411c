"""Run stores to break things in, and the record of what a run did."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from chaos_runs import LONGEST_SECONDS, STORE, Bench, Kill, Role

Event = dict[str, Any]


def copy_store(reference: Path, runs: Path, without: Collection[str] = ()) -> Path:
    """A run store with the artifacts of another but for some stages'; returns the folder of its artifacts.

    The files are shared, not copied: whoever changes one instead of replacing it damages the reference.
    """
    store = runs / STORE
    store.mkdir(parents=True)
    for folder in reference.iterdir():
        if is_artifact(folder) and stage_of(folder) not in without:
            shutil.copytree(folder, store / folder.name, copy_function=os.link)
    return store


def is_artifact(folder: Path) -> bool:
    """Whether a path in a store is a published artifact."""
    return (folder / "manifest.json").is_file() and not folder.name.endswith(".partial")


def stage_of(folder: Path) -> str:
    """The stage whose artifact a folder is."""
    return folder.name.rpartition("-")[0]


def artifacts(store: Path) -> dict[str, Path]:
    """The published artifacts of a store by stage."""
    found = [folder for folder in sorted(store.iterdir()) if is_artifact(folder)]
    assert len({stage_of(folder) for folder in found}) == len(found), f"a stage has two artifacts in {store}"
    return {stage_of(folder): folder for folder in found}


def leftovers(store: Path) -> list[str]:
    """What is in a store after a run that has ended well and is no part of what it keeps."""
    known = ("measures.json", "provenance")
    return [f"{path.name} is left" for path in store.iterdir() if not is_artifact(path) and path.name not in known]


def await_step(store: Path, stage: str, step: int, run: subprocess.Popen[bytes], seconds: float = 300.0) -> None:
    """Wait until a stage of this run has told of a step."""
    end = time.monotonic() + seconds
    while not any(f'"step": {step}' in path.read_text() for path in store.glob(f"{stage}-*/metrics.jsonl")):
        assert run.poll() is None and time.monotonic() < end, f"'{stage}' came to no step {step}"
        time.sleep(0.005)


def read_record(folder: Path) -> list[Event]:
    """What the processes of a recorded run did, in the order of time, each with the ``role`` of its process."""
    events = []
    for path in folder.glob("*.jsonl"):
        role = path.name.rpartition("-")[0]
        events += [{**json.loads(line), "role": role} for line in path.read_text().splitlines()]
    return sorted(events, key=lambda event: float(event["time"]))


def changes(record: Iterable[Event], store: Path, stage: str, role: Role) -> list[Event]:
    """The changes to a stage's files that processes of one role made: what a ``Kill`` counts."""
    prefix = f"{store / stage}-"
    return [event for event in record if event["role"] == role and event.get("path", "").startswith(prefix)]


def choose(found: Sequence[Event], stage: str, role: Role, where: str, luck: random.Random) -> Kill:
    """A kill at one of the changes whose path ``where``, a regular expression, is found in."""
    chosen = [number for number, event in enumerate(found, start=1) if re.search(where, event["path"])]
    assert chosen, f"the {role} of '{stage}' changes nothing like {where!r}"
    at = luck.choice(chosen)
    opens = found[at - 1]["event"] == "open"
    return Kill(stage=stage, role=role, at=at, moment=luck.choice(["before", "opened"]) if opens else "before")


def run_recorded(bench: Bench, folder: Path, *settings: str, environment: dict[str, str] | None = None) -> list[Event]:
    """Run the whole recipe into ``folder/runs``, and return what its processes did."""
    record = folder / "record"
    record.mkdir(parents=True)
    whole = {**(environment or {}), "CHAOS_RECORD": str(record)}
    bench.run(folder / "runs", *settings, environment=whole, seconds=2 * LONGEST_SECONDS).check(0)
    return read_record(record)
