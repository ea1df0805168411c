"""Our ``merge`` against plain mergekit with the same configuration.

    python benchmarks/merging.py

Two models of about a hundred million parameters, 0.6 of one and 0.4 of the other, in float32 and in bfloat16; every way
in a process of its own, imports included. Ours checks the models before (configurations, tensors, vocabularies) and the
result after (names, shapes, dtypes, finite values, loaded and asked once): what that costs stands apart. The whole
``smolrecipe run`` also reads the inputs' checksums and writes the result's.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from measuring import by_turns, in_process, keep, spread
from our_runs import ONE_THREAD, run, run_way
from small_models import MODELS, save_model

GOAL = 1.0
ROUNDS = 5
DTYPES = ("float32", "bfloat16")
WEIGHTS = {"one": 0.6, "two": 0.4}

RECIPE = """\
name: merging
launcher: {{use: local}}
stages:
  tokenizer:
    use: train_tokenizer
    vocab_size: 2048
    data: {{sums: {{use: arithmetic, style: think, split: train, rows: 2000}}, prose: {{use: python_docs, rows: 300}}}}
  merge:
    use: merge
    base: {folder}/one
    models: [{{from: {folder}/one, weight: 0.6}}, {{from: {folder}/two, weight: 0.4}}]
"""


def main() -> None:
    """Measure and print."""
    rows: list[Sequence[Any]] = []
    details = {}
    for dtype in DTYPES:
        with tempfile.TemporaryDirectory() as temporary:
            found, memory, checks = _measure(Path(temporary), dtype)
        plain, plain_memory = median(found["mergekit"]), median(memory["mergekit"])
        for name, seconds in found.items():
            ratios: tuple[Any, ...] = (median(seconds) / plain, median(memory[name]) / plain_memory, GOAL)
            if name == "mergekit":
                ratios = ("", "", "")
            rows.append((dtype, name, spread(seconds), ratios[0], median(memory[name]), *ratios[1:]))
        details[dtype] = {"seconds": found, "MiB": memory, "seconds of our stage by part": checks}
    head = ("dtype", "merge", "seconds: median (range)", "ratio", "MiB at most", "ratio of it", "goal")
    keep("merging", "A merge of two models of 100M, one thread", head, rows, details=details)
    for dtype, detail in details.items():
        print(dtype, json.dumps(detail["seconds of our stage by part"]))


def _measure(folder: Path, dtype: str) -> tuple[dict[str, list[float]], dict[str, list[float]], dict[str, float]]:
    recipe = folder / "merging.yaml"
    recipe.write_text(RECIPE.format(folder=folder))
    run(folder, recipe, "tokenizer")
    (tokenizer,) = folder.glob("runs/merging/tokenizer-*/tokenizer")
    for seed, name in enumerate(WEIGHTS):
        save_model(folder / name, MODELS["100M"], tokenizer, seed=seed, dtype=dtype)
    run(folder, recipe)  # the models are stages now, published
    whole = run_way(folder, recipe)
    commands = {
        "mergekit": ([sys.executable, __file__, "mergekit", str(folder)], ONE_THREAD),
        "smolrecipe, the stage": ([sys.executable, __file__, "smolrecipe", str(folder)], ONE_THREAD),
        "smolrecipe run": (whole.command, whole.environment),
    }
    memory: dict[str, list[float]] = {name: [] for name in commands}

    def start(name: str) -> float:
        for made in folder.glob("runs/merging/merge-*"):
            made.rename(folder / f"made-{len(memory[name])}")
        command, environment = commands[name]
        seconds, most = in_process(command, **environment)
        memory[name].append(most)
        return seconds

    found = by_turns({name: lambda name=name: start(name) for name in commands}, rounds=ROUNDS)
    parts = [json.loads(line) for line in (folder / "parts.jsonl").read_text().splitlines()]
    return found, memory, {name: median(part[name] for part in parts) for name in parts[0]}


def _plain(folder: Path) -> None:
    """mergekit, as its README runs it from Python."""
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    config = {
        "merge_method": "linear",
        "base_model": str(folder / "one"),
        "models": [{"model": str(folder / name), "parameters": {"weight": weight}} for name, weight in WEIGHTS.items()],
    }
    options = MergeOptions(copy_tokenizer=True, write_model_card=False, quiet=True)
    run_merge(MergeConfiguration.model_validate(config), str(folder / "plain"), options)


def _ours(folder: Path) -> None:
    """The function of the stage, with a clock at what it consists of."""
    import time

    start = time.perf_counter()
    import smolrecipe_mergekit.merge as parts
    from smolrecipe import StageContext, StageRef
    from smolrecipe_mergekit.options import MemberOptions, MergeOptions

    seconds = {"imports": time.perf_counter() - start}

    def timed(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return work(*arguments, **named)
            finally:
                seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start

        return run

    names = {"read": "checks before", "compare": "checks before", "run_merge": "mergekit", "_verify": "checks after"}
    for function, name in names.items():
        setattr(parts, function, timed(name, getattr(parts, function)))
    refs = {name: StageRef(name) for name in WEIGHTS}
    target = folder / "ours"
    target.mkdir(exist_ok=True)
    for name in WEIGHTS:
        (folder / "published" / name).mkdir(parents=True, exist_ok=True)
        if not (link := folder / "published" / name / "model").exists():
            link.symlink_to(folder / name)
    options = MergeOptions(
        models=[MemberOptions(from_=refs[name], weight=weight) for name, weight in WEIGHTS.items()], base=refs["one"]
    )
    inputs = {name: folder / "published" / name for name in WEIGHTS}
    parts.merge(options, StageContext(recipe="merging", stage="merge", folder=target, inputs=inputs))
    with (folder / "parts.jsonl").open("a") as file:
        file.write(json.dumps(seconds) + "\n")


_WAYS = {"mergekit": _plain, "smolrecipe": _ours}


if __name__ == "__main__":
    if sys.argv[1:]:
        _WAYS[sys.argv[1]](Path(sys.argv[2]))
    else:
        main()
