"""What the chaos suite shares: runs that take long are made once, and two at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from chaos_compare import manifest_errors
from chaos_counts import report
from chaos_runs import warm_bench
from chaos_stores import artifacts
from chaos_work import Case, Reference, Watched, kill_once, run_reference, run_watched

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


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell what was done to runs, and what came of it."""
    if lines := report():
        terminalreporter.section("chaos")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A folder with a short path: sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        yield Path(name)


@pytest.fixture(scope="session")
def work(request: pytest.FixtureRequest, folder: Path) -> Iterator[Callable[[str], Future[Any]]]:
    """All that the selected tests wait for, at work in two threads from the first of them on; by name."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    wanted = {name for item in items for name in item.fixturenames}
    cases = [item.callspec.params["case"] for item in items if "killed" in item.fixturenames]
    futures: dict[str, Future[Any]] = {}
    with ExitStack() as until_the_end, ThreadPoolExecutor(2) as pool:
        # A task may wait for those before it: two of them are always at work.
        if "watched" in wanted:
            futures["watched"] = pool.submit(run_watched, folder / "watched")
        reference = futures["reference"] = pool.submit(
            lambda: run_reference(until_the_end.enter_context(warm_bench(folder)), folder / "reference")
        )
        for case in cases:
            futures[str(case)] = pool.submit(kill_once, case, reference, folder / f"killed-{len(futures)}")
        yield futures.__getitem__
        pool.shutdown(cancel_futures=True)
    for artifact in artifacts(reference.result().store).values() if reference.exception() is None else ():
        assert not list(manifest_errors(artifact)), f"a test, or what it tests, has changed a file of {artifact}"


@pytest.fixture(scope="session")
def reference(work: Callable[[str], Future[Any]]) -> Reference:
    """The uninterrupted run."""
    result: Reference = work("reference").result()
    return result


@pytest.fixture(scope="session")
def watched(work: Callable[[str], Future[Any]]) -> Watched:
    """The run that was watched."""
    result: Watched = work("watched").result()
    return result


@pytest.fixture
def killed(work: Callable[[str], Future[Any]], case: Case) -> list[str]:
    """What a kill has left wrong."""
    result: list[str] = work(str(case)).result()
    return result
