"""What lies around the steps: until the first, after the last, between stages, and while a checkpoint is written.

    python benchmarks/around.py

From the command to the end of the first step, and from the end of the last to the end of the command: ``smolrecipe
run`` with one stage to run against the scripts of plain torchtitan and TRL, which publish nothing and prove nothing.
Then stages that do nothing, one after the other: what a switch to the next costs. Then a checkpoint of 100 million
parameters with the state of AdamW, 1.2 GB: how much longer the step takes after which it is written, against
``torch.save`` of as many bytes.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import post_training
import pretraining
from measuring import in_process, keep
from our_runs import run
from planted import plant
from small_models import MODELS
from turns import Way, course_of

STEPS = 3
ROUNDS = 3


def main() -> None:
    """Measure and print."""
    courses()
    switches()
    checkpoints()


def courses() -> None:
    """To the first step and from the last, of both trainings of a model of 1M."""
    prepare: dict[str, Callable[[Path], dict[str, Way]]] = {
        "pretrain": lambda folder: pretraining.ways_of(folder, pretraining.SIZES["1M"], 1 + STEPS),
        "sft": lambda folder: post_training.ways_of(folder, post_training.WORK["sft-1M"], MODELS["1M"], 1 + STEPS),
    }
    rows = []
    for kind, ways in prepare.items():
        found: dict[str, list[tuple[float, float]]] = {}
        for _ in range(ROUNDS):
            with tempfile.TemporaryDirectory() as folder:
                for name, way in ways(Path(folder)).items():
                    found.setdefault(name, []).append(course_of(name, way, steps=STEPS))
        for name, measured in found.items():
            rows.append((kind, name, *(median(column) for column in zip(*measured, strict=True))))
    head = ("stage", "way", "s to the first step", "s after the last")
    keep("courses", "Around the steps of a model of 1M", head, rows)


def switches() -> None:
    """Runs of stages that do nothing, each made from the one before."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        environment = plant(folder / "site")
        for count in (1, 11):
            recipe = folder / f"{count}.yaml"
            after = [
                f"  s-{n}: {{use: nothing, number: {n}, after: {[f's-{n - 1}'] if n else []}}}" for n in range(count)
            ]
            recipe.write_text("\n".join([f"name: switch-{count}", "launcher: {use: local}", "stages:", *after, ""]))
            command = [sys.executable, "-m", "smolrecipe", "run", str(recipe), "--runs"]
            used = [in_process([*command, str(folder / f"runs-{turn}")], **environment) for turn in range(ROUNDS)]
            rows.append((count, median(each.seconds for each in used), median(each.processor for each in used)))
    more = [(last - first) / (rows[1][0] - rows[0][0]) for first, last in zip(*rows, strict=True)][1:]
    head = ("stages", "s on the clock", "s of processor")
    keep("switches", "Stages that do nothing", head, [*rows, ("each more", *more)])


def checkpoints() -> None:
    """The step after which a checkpoint is written, against the others, and ``torch.save``."""
    work = pretraining.SIZES["100M"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        recipe = folder / "pretraining.yaml"
        settings = pretraining.RECIPE.format(steps=13, length=work["length"], batch=work["batch"], **work["size"])
        recipe.write_text(settings.replace("checkpoint_every: 100000", "checkpoint_every: 4"))
        run(folder, recipe)
        (stage,) = folder.glob("runs/pretraining/train-*")
        events = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
        times = {event["step"]: event["time"] for event in events if "loss" in event}
        took = {step: times[step] - times[step - 1] for step in times if step - 1 in times}
        after = [took[step] for step in (5, 9)]  # the checkpoint of step 4 lies between the ends of steps 4 and 5
        others = [seconds for step, seconds in took.items() if step not in (5, 9) and step > 2]
        content = sum(file.stat().st_size for file in stage.glob("checkpoints/step-*/**/*") if file.is_file())
        saved = _seconds_of_torch_save(folder / "plain.pt", content)
    rows = [(content / 2**20, 1e3 * median(others), 1e3 * (median(after) - median(others)), 1e3 * saved)]
    head = ("MiB", "ms of a step", "ms longer with a checkpoint", "ms of torch.save and fsync")
    keep("checkpoints", "A checkpoint of 100M parameters with the optimizer's state", head, rows)


def _seconds_of_torch_save(file: Path, size: int) -> float:
    import os

    import torch

    state = {"state": torch.zeros(size // 4)}
    start = time.perf_counter()
    with file.open("wb") as opened:
        torch.save(state, opened)
        opened.flush()
        os.fsync(opened.fileno())
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
