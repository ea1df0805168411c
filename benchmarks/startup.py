"""How long the commands take that people wait for, and how a run of nothing grows with what is published.

    python benchmarks/startup.py

Each command is started in a process of its own. The bare interpreter and ``import torch`` stand beside them: what every
Python tool costs, and what a tool costs that imports its engine at once.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import median

from measuring import by_turns, in_process, keep, spread

SMOLRECIPE = [sys.executable, "-m", "smolrecipe"]
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import torch": [sys.executable, "-c", "import torch"],
    "--help": [*SMOLRECIPE, "--help"],
    "validate smollm3": [*SMOLRECIPE, "validate", "smollm3"],
    "plan smollm3": [*SMOLRECIPE, "plan", "smollm3"],
    "show smollm3 --resolved": [*SMOLRECIPE, "show", "smollm3", "--resolved"],
    "plugins": [*SMOLRECIPE, "plugins"],
    "docs pretrain": [*SMOLRECIPE, "docs", "pretrain"],
}
GOALS = {"--help": 0.3, "validate smollm3": 0.6}
"""Seconds, from the design."""

STAGES = (1, 10, 100, 1000)


def main() -> None:
    """Measure and print."""
    memory: dict[str, float] = {}

    def start(name: str) -> float:
        seconds, memory[name] = in_process(COMMANDS[name])
        return seconds

    found = by_turns({name: lambda name=name: start(name) for name in COMMANDS}, rounds=5)
    rows = [(name, spread(values), memory[name], GOALS.get(name, "")) for name, values in found.items()]
    keep("startup", "Start-up", ("command", "seconds: median (range)", "MiB at most", "goal, seconds"), rows)
    nothing_to_do()


def nothing_to_do() -> None:
    """Runs of recipes whose every stage is published, by the number of stages."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for stages in STAGES:
            recipe = Path(folder) / f"{stages}.yaml"
            recipe.write_text(_recipe(stages))
            command = [*SMOLRECIPE, "run", str(recipe), "--runs", str(Path(folder) / "runs")]
            first, _ = in_process(command)
            again = [in_process(command)[0] for _ in range(3)]
            rows.append((stages, first, median(again), 1.0 if stages == 1000 else ""))
    head = ("stages", "seconds to publish them", "seconds when all are published", "goal, seconds")
    keep("nothing-to-do", "A run with nothing left to do", head, rows)


def _recipe(stages: int) -> str:
    """Tokenizers, each of another size: stages that are quick, real and of one kind."""
    lines = [
        f"  stage-{number}: {{use: train_tokenizer, vocab_size: {280 + number}, "
        "data: {text: {use: needles, style: text, split: train, rows: 400}}}"
        for number in range(1, stages + 1)
    ]
    return "name: nothing\nlauncher: {use: local}\nstages:\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
