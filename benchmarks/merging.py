"""Our ``merge`` against plain mergekit with the same configuration.

    python benchmarks/merging.py

Two models of about a hundred million parameters, 0.6 of one and 0.4 of the other, in float32 and in bfloat16; every way
in a process of its own, imports included. Ours checks the models before (configurations, tensors, vocabularies) and the
result after (names, shapes, dtypes, finite values, loaded and asked once): what that costs stands apart. The whole
``smolrecipe run`` also reads the inputs' checksums and writes the result's.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from measuring import Used, in_process, keep, medians, spread
from our_runs import ONE_THREAD, run, run_way
from small_models import MODELS, save_model

GOAL = 1.0
ROUNDS = 3
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
            found, parts = _measure(Path(temporary), dtype)
        plain = medians(found["mergekit"])
        for name, used in found.items():
            own = medians(used)
            ratios: tuple[Any, ...] = (own.processor / plain.processor, own.memory / plain.memory, GOAL)
            if name == "mergekit":
                ratios = ("", "", "")
            seconds, processor = spread([one.seconds for one in used]), spread([one.processor for one in used])
            rows.append((dtype, name, seconds, processor, ratios[0], own.memory, *ratios[1:]))
        details[dtype] = {"used": found, "seconds of processor of our stage by part": parts}
    head = (
        "dtype",
        "merge",
        "seconds: median (range)",
        "seconds of processor",
        "ratio of it",
        "MiB at most",
        "ratio of memory",
        "goal",
    )
    keep("merging", "A merge of two models of 100M, one thread", head, rows, details=details)
    for dtype, detail in details.items():
        print(dtype, json.dumps(detail["seconds of processor of our stage by part"]))


def _measure(folder: Path, dtype: str) -> tuple[dict[str, list[Used]], dict[str, float]]:
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
    found: dict[str, list[Used]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, (command, environment) in commands.items():
            for made in folder.glob("runs/merging/merge-*"):
                shutil.rmtree(made)
            found[name].append(in_process(command, **environment))
    parts = [json.loads(line) for line in (folder / "parts.jsonl").read_text().splitlines()]
    return found, {name: median(part[name] for part in parts) for name in parts[0]}


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

    start = time.process_time()
    import smolrecipe_mergekit.merge as parts
    from smolrecipe import StageContext, StageRef
    from smolrecipe_mergekit.options import MemberOptions, MergeOptions

    seconds = {"imports": time.process_time() - start}

    def timed(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            start = time.process_time()
            try:
                return work(*arguments, **named)
            finally:
                seconds[name] = seconds.get(name, 0.0) + time.process_time() - start

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
