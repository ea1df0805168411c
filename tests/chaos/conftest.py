"""What the chaos suite shares: a finished run of the tiny recipe, made once where there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
TINY = REPOSITORY / "recipes" / "smollm3-tiny.yaml"
LONGEST_TINY_RUN = 3600
"""Seconds; two cores of one's own need a tenth of it."""


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of recipes/smollm3-tiny.yaml, not to be changed: copy what you damage.

    It is the one that the environment variable SMOLRECIPE_TINY_RUN names, or what `make run` has left in this checkout;
    where neither is finished, it is made here, in minutes.
    """
    if given := os.environ.get("SMOLRECIPE_TINY_RUN"):
        folder = Path(given).absolute()
        lacking = [name for name in unpublished(folder.parent) if not [*folder.glob(f"{name}-*/manifest.json")]]
        if lacking:
            pytest.fail(f"SMOLRECIPE_TINY_RUN is {given}, where no artifact is of stage {', '.join(lacking)}")
        return folder
    runs = REPOSITORY / "runs"
    if unpublished(runs):
        runs = tmp_path_factory.mktemp("tiny")
        command = [sys.executable, "-m", "smolrecipe", "run", str(TINY), "--runs", str(runs)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_TINY_RUN, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
    return runs / TINY.stem


def unpublished(runs: Path) -> list[str]:
    """The stages of the tiny recipe that are not published in this run store, as the sources are now."""
    command = [sys.executable, "-m", "smolrecipe", "plan", str(TINY), "--runs", str(runs), "--json"]
    plan = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return [stage["stage"] for stage in json.loads(plan.stdout)["stages"] if stage["status"] != "published"]
