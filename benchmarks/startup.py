"""How long the commands take that people wait for, and how a run of nothing grows with what is published.

    python benchmarks/startup.py

Each command is started in a process of its own. The bare interpreter and imports that it cannot do without stand beside
them, and ``import torch``: what a tool costs that imports its engine at once. On a machine that does other things too,
the processor time is the number to look at.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import median

from measuring import Used, by_turns, in_process, keep, spread
from planted import publish_stages

SMOLRECIPE = [sys.executable, "-m", "smolrecipe"]
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import click, attrs, pluggy": [sys.executable, "-c", "import click, attrs, pluggy"],
    "import torch": [sys.executable, "-c", "import torch"],
    "--help": [*SMOLRECIPE, "--help"],
    "run --help": [*SMOLRECIPE, "run", "--help"],
    "validate smollm3": [*SMOLRECIPE, "validate", "smollm3"],
    "plan smollm3": [*SMOLRECIPE, "plan", "smollm3"],
    "why smollm3": [*SMOLRECIPE, "why", "smollm3"],
    "diff smollm3 smollm3": [*SMOLRECIPE, "diff", "smollm3", "smollm3"],
    "show smollm3 --resolved": [*SMOLRECIPE, "show", "smollm3", "--resolved"],
    "ls": [*SMOLRECIPE, "ls"],
    "plugins": [*SMOLRECIPE, "plugins"],
    "docs pretrain": [*SMOLRECIPE, "docs", "pretrain"],
    "completion bash": [*SMOLRECIPE, "completion", "bash"],
    "Tab after 'smolrecipe r'": SMOLRECIPE,
    "Tab after 'smolrecipe run smol'": SMOLRECIPE,
}
TYPED = {
    "Tab after 'smolrecipe r'": ["smolrecipe", "r"],
    "Tab after 'smolrecipe run smol'": ["smolrecipe", "run", "smol"],
}
GOALS = {
    "--help": 0.3,
    "validate smollm3": 0.6,
    "Tab after 'smolrecipe r'": 0.3,
    "Tab after 'smolrecipe run smol'": 0.3,
}
"""Seconds, on two cores that do nothing else."""

STAGES = (1, 10, 100, 1000)


def main() -> None:
    """Measure and print."""
    commands()
    nothing_to_do()


def commands() -> None:
    """The commands by turns."""
    taken: dict[str, list[Used]] = {name: [] for name in COMMANDS}

    def start(name: str) -> float:
        taken[name].append(_start(COMMANDS[name], _completing(name)))
        return taken[name][-1].processor

    by_turns({name: lambda name=name: start(name) for name in COMMANDS}, rounds=8)
    rows = []
    for name, (_, *measured) in taken.items():  # the first compiles what has changed
        processor = spread([1e3 * each.processor for each in measured])
        seconds = spread([1e3 * each.seconds for each in measured])
        rows.append((name, processor, seconds, max(each.memory for each in measured), GOALS.get(name, "")))
    head = ("command", "processor, ms: median (range)", "clock, ms: median (range)", "MiB at most", "goal, seconds")
    keep("startup", "Start-up", head, rows)


def nothing_to_do() -> None:
    """Runs of recipes whose every stage is published, by the number of stages."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        published = publish_stages(Path(temporary), max(STAGES))
        for stages in STAGES:
            command = ["run", str(published.recipe(stages)), *published.runs]
            taken = [start_ours(command, published.environment) for _ in range(6)][1:]
            processor = median(each.processor for each in taken)
            seconds = median(each.seconds for each in taken)
            rows.append((stages, 1e3 * processor, 1e3 * seconds, taken[-1].memory, 1.0 if stages == 1000 else ""))
    head = ("stages", "processor, ms", "clock, ms", "MiB at most", "goal, seconds")
    keep("nothing-to-do", "A run with nothing left to do", head, rows)


def start_ours(arguments: list[str], environment: dict[str, str]) -> Used:
    """``smolrecipe`` with these arguments."""
    return _start([*SMOLRECIPE, *arguments], environment)


def _completing(name: str) -> dict[str, str]:
    """What a shell says when Tab is pressed."""
    if name not in TYPED:
        return {}
    words = TYPED[name]
    return {
        "_SMOLRECIPE_COMPLETE": "bash_complete",
        "COMP_WORDS": "\n".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }


def _start(command: list[str], environment: dict[str, str]) -> Used:
    """As an installed program starts: from what was compiled before."""
    return in_process(command, **{"PYTHONDONTWRITEBYTECODE": "", **environment})


if __name__ == "__main__":
    main()
