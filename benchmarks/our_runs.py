"""Running recipes of ours in benchmarks: with ``smolrecipe run``, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from turns import Way

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}
"""One thread for every way alike: several would wait for each other wherever a core is busy with something else."""


def run(folder: Path, recipe: Path, *stages: str) -> None:
    """Run some stages of a recipe, or all.

    Raises:
        RuntimeError: when that fails, with what it said.
    """
    for only in [("--only", stage) for stage in stages] or [()]:
        way = run_way(folder, recipe, *only)
        done = subprocess.run(
            way.command, env=os.environ | way.environment, check=False, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(way.command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


def run_way(folder: Path, recipe: Path, *arguments: str) -> Way:
    """``smolrecipe run`` of a recipe, into ``folder/runs``, with the tracker ``turns`` installed."""
    info = folder / "site" / "benchmark_turns-1.dist-info"
    if not info.exists():
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: benchmark_turns\nVersion: 1\n")
        (info / "entry_points.txt").write_text("[smolrecipe]\nturns = turns_tracker\n")
    command = [sys.executable, "-m", "smolrecipe", "run", str(recipe), "--runs", str(folder / "runs"), *arguments]
    return Way(command, ONE_THREAD | {"PYTHONPATH": f"{folder / 'site'}:{Path(__file__).parent}"})
