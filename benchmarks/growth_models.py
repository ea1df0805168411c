"""How a training stage grows with its layers, and ``plan --dry-run`` with its ranks.

``growth.py`` runs this. Layers: a decoder of torchtitan's parts as ``pretrain`` builds and trains it, in this process,
one for each number of layers. Ranks: the command as a user types it, for one layout after the other.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from growth_data import LENGTH, write_source
from measuring import in_process, memory_from_now_on, peak_memory

LAYERS = (1, 2, 4, 8, 16, 32, 64)
RANKS = (8, 512, 2048, 4096)
STEPS = 12
NODE = 8
"""Ranks that share matrices or shards where a layout has two dimensions."""

LAYOUTS = {
    "FSDP": "device: cuda, data_parallel: {ranks}",
    "HSDP": f"device: cuda, data_parallel: {NODE}, replicas: {{rest}}",
    "FSDP + TP": f"device: cuda, data_parallel: {{rest}}, tensor_parallel: {NODE}",
}

TINY = {"width": 128, "heads": 8, "wide": 384, "vocabulary": 2048}
WIDE = {"width": 4096, "heads": 32, "wide": 12288, "vocabulary": 32768}
"""So wide that each of 4,096 ranks holds a row of every matrix; a dry run makes no weights."""

RECIPE = """\
name: growth
launcher: {{use: local}}
stages:
  tokenizer:
    use: train_tokenizer
    vocab_size: 2048
    data: {{prose: {{use: python_docs, rows: 400}}}}
  tokens: {{use: tokenize, tokenizer: tokenizer, sources: {{prose: {{use: python_docs, rows: 400}}}}}}
  train:
    use: pretrain
    model:
      decoder:
        use: decoder
        hidden_size: {width}
        num_layers: {layers}
        num_heads: {heads}
        intermediate_size: {wide}
        vocab_size: {vocabulary}
      attention: {{use: gqa, num_heads: {heads}, num_kv_heads: {heads}}}
      rope: {{use: rope, theta: 10000, max_positions: 128}}
    tokenizer: tokenizer
    data: {{use: mixture, from: [tokens], weights: {{prose: 1}}}}
    steps: {steps}
    sequence_length: 128
    global_batch: {ranks}
    micro_batch: 1
    optimizer: {{use: adamw, lr: 1.0e-3}}
    schedule: {{use: linear, warmup_steps: 1}}
    precision: float32
    held_out_rows: 0
    checkpoint_every: 100000
    parallelism: {{{layout}}}
"""


def layers() -> dict[int, dict[str, float]]:
    """What a stage takes, by the number of its model's layers."""
    with tempfile.TemporaryDirectory() as folder:
        write_source(Path(folder) / "prose", 1000, LENGTH // 20)
        return {number: _measured(folder, number) for number in LAYERS}


def ranks_plan() -> dict[int, dict[str, float]]:
    """What ``plan --dry-run`` takes, by the number of ranks: seconds of processor and MiB."""
    found: dict[int, dict[str, float]] = {ranks: {} for ranks in RANKS}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "growth.yaml"
        command = [sys.executable, "-m", "smolrecipe", "plan", str(file), "--dry-run", "--runs", folder]
        for ranks in RANKS:
            for name, layout in LAYOUTS.items():
                file.write_text(_recipe(WIDE, 4, ranks, layout.format(ranks=ranks, rest=ranks // NODE)))
                used = in_process(command, OMP_NUM_THREADS="1")
                found[ranks] |= {f"plan --dry-run, {name}, s": used.processor, f"{name}, MiB": used.memory}
    return found


def _recipe(size: Mapping[str, int], layers: int, ranks: int, layout: str) -> str:
    return RECIPE.format(layers=layers, ranks=ranks, layout=layout, steps=STEPS, **size)


def _measured(folder: str, number: int) -> dict[str, float]:
    command = [sys.executable, __file__, folder, str(number)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def _layers(folder: Path, number: int) -> dict[str, float]:
    """Draft, build, train: with the parts that ``pretrain`` runs, in its order; seconds are the processor's."""
    from smolrecipe.cli.session import Session
    from smolrecipe_torchtitan.device import use_device

    recipe = folder / f"{number}.yaml"
    recipe.write_text(_recipe(TINY, number, 1, "device: cpu"))
    options: Any = Session(None).plan(str(recipe), ()).by_name["train"].use.options
    use_device("cpu")

    from smolrecipe import StageContext
    from smolrecipe_data.mixture import Mixture
    from smolrecipe_torchtitan.assemble import draft_model, trainer_config
    from smolrecipe_torchtitan.pretrain import _training
    from smolrecipe_torchtitan.start import Start

    rows = Mixture({"prose": folder / "prose"}, {"prose": 1.0}, sequence_length=options.sequence_length, seed=0)
    steps: list[float] = []
    before, start = memory_from_now_on(), time.process_time()
    model = draft_model(options)
    drafted = time.process_time()
    config = trainer_config(
        options,
        StageContext(recipe="growth", stage="train", folder=folder / f"stage-{number}"),
        model=model,
        rows=rows,
        start=Start(),
        names=None,
    )
    config.metrics.report = lambda *told, **measured: steps.append(time.process_time())
    configured = time.process_time()
    with _training(config, alone=True) as trainer:
        built, memory_built = time.process_time(), peak_memory()
        trainer.train()
        trained = time.process_time()
    first, *others = [1e3 * (after - before) for before, after in zip([built, *steps], steps, strict=False)]
    return {
        "drafting the model, ms": 1e3 * (drafted - start),
        "building and initialising, ms": 1e3 * (built - configured),
        "first step, ms": first,
        "step, ms": median(others),
        "saving the last step, ms": 1e3 * (trained - steps[-1]),
        "memory when built, MiB": memory_built - before,
        "memory of training, MiB": peak_memory() - before,
    }


if __name__ == "__main__":
    print(json.dumps(_layers(Path(sys.argv[1]), int(sys.argv[2]))))
