"""What a launcher must hold: its command starts a worker, in as many processes as asked, and fails when one does."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from attrs import Factory, frozen

from smolrecipe.components import Devices, Launcher
from smolrecipe.running.process import run_processes
from smolrecipe.testing.attempts import after, make, only_where, options_kept, reporting
from smolrecipe.testing.contract import Check, broken

WORKER = "smolrecipe.testing.launched"
ARGUMENTS = ("two words", "--flag=1", "a'b\"c $HOME *", "")
"""What a worker's arguments may be: everything."""

LONGEST_SECONDS = 120
FAILING_SECONDS = 10
"""How long the others may go on after one has failed; less than they wait for it."""

CAPACITY, COMMAND, ENVIRONMENT = (
    "what it can start is counted by device",
    "its command is a list of words",
    "its environment is text",
)
ONE, SEVERAL = "its command runs the worker", "several processes find each other"


def checks(component: Launcher, options: Any) -> Iterator[Check]:
    """The checks of a launcher with the options of its example."""
    for name, check in (
        (CAPACITY, _check_capacity),
        (COMMAND, _check_command),
        (ENVIRONMENT, _check_environment),
        (ONE, _check_one),
        (SEVERAL, _check_several),
        ("its command fails when the worker does", partial(_check_failing, processes=1)),
        ("its command fails when one of several workers does", partial(_check_failing, processes=2)),
    ):
        yield Check(name=name, run=partial(make, check, component, options))


_Workers = Sequence[Mapping[str, Any]]


@frozen(kw_only=True)
class _Run:
    """How a command ended, and what its workers wrote down."""

    code: int
    ended: float
    """Seconds since 1970."""
    log: str
    workers: _Workers = Factory(list)


def _check_capacity(component: Launcher, options: Any) -> None:
    what = f"capacity of launcher '{component.name}'"
    capacity = options_kept(what, options, lambda: component.capacity(options))
    if capacity is None:
        return
    if not isinstance(capacity, Mapping):
        broken(f"{what} is {capacity!r}: return device -> number of processes, or None where it cannot be known")
    for device, count in capacity.items():
        if device not in ("cpu", "cuda") or type(count) is not int or count < 0:
            broken(
                f"{what} has {device!r}: {count!r}: devices are 'cpu' and 'cuda', and the number of processes is whole;"
                " leave out a device without a limit"
            )


def _check_command(component: Launcher, options: Any) -> None:
    what = f"command of launcher '{component.name}'"
    for devices in (Devices(), Devices(processes=2)):
        worker = [WORKER, *ARGUMENTS]
        command = options_kept(what, options, lambda: component.command(options, devices, worker))  # noqa: B023
        if isinstance(command, str) or not isinstance(command, Sequence) or not command:
            broken(f"{what} is {command!r}: return a list of words, program first; no shell reads it")
        if strange := [word for word in command if not isinstance(word, str)]:
            broken(f"{what} has {strange[0]!r}, which is no text")
        if worker != [WORKER, *ARGUMENTS]:
            broken(f"{what} changes the worker that it is given: make a new list")


def _check_environment(component: Launcher, options: Any) -> None:
    what = f"environment of launcher '{component.name}'"
    for devices in (Devices(), Devices(processes=2), Devices(device="cuda")):
        found = options_kept(what, options, lambda: component.environment(options, devices))  # noqa: B023
        if not isinstance(found, Mapping):
            broken(f"{what} is {found!r}: return variable -> value")
        for name, value in found.items():
            if not isinstance(name, str) or not isinstance(value, str) or not name:
                broken(f"{what} has {name!r}: {value!r}: names and values of environment variables are text")


def _require_place(component: Launcher, options: Any, processes: int) -> None:
    """Skip where the launcher says that it cannot start so many CPU processes from here."""
    after(CAPACITY, _check_capacity, component, options)
    missing = "; ".join(component.missing(options))
    only_where(not missing, f"launcher '{component.name}' cannot be tried here: {missing}")
    most = (component.capacity(options) or {}).get("cpu", processes)
    only_where(most >= processes, f"launcher '{component.name}' can start {most} CPU processes, and not {processes}")


def _run(
    component: Launcher,
    options: Any,
    processes: int,
    failing: str = "",
    watch: Callable[[_Workers], None] | None = None,
) -> _Run:
    """Run the kit's worker as a stage is run, with the launcher's command and environment.

    ``watch`` is told of the workers as soon as there are so many; what it raises ends them.
    """
    devices = Devices(processes=processes)
    with tempfile.TemporaryDirectory() as name:
        folder, log, started = Path(name), Path(name) / "log.txt", time.monotonic()
        command = list(component.command(options, devices, [WORKER, name, failing, *ARGUMENTS]))
        if shutil.which(command[0]) is None:
            broken(
                f"launcher '{component.name}' starts '{command[0]}', which is no program here: say in 'missing' that "
                "it is not installed"
            )

        def end_in_time() -> None:
            if watch is not None and len(workers := _told(folder)) == processes:
                watch(workers)
            if time.monotonic() - started > LONGEST_SECONDS:
                raise TimeoutError(f"it was still running after {LONGEST_SECONDS} s")

        with reporting(f"running the command of launcher '{component.name}' for {processes} processes"):
            code = run_processes(command, component.environment(options, devices), log, end_in_time)
        return _Run(
            code=code,
            ended=time.time(),
            log=log.read_text(errors="replace")[-600:].strip(),
            workers=_told(folder),
        )


def _told(folder: Path) -> _Workers:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def _check_started(component: Launcher, options: Any, run: _Run, processes: int) -> None:
    what = f"the command of launcher '{component.name}' for {processes} process{'es' if processes > 1 else ''}"
    if len(run.workers) != processes:
        broken(
            f"{what} has started the worker {len(run.workers)} times, and ended with exit code {run.code} "
            f"(its output: {run.log or 'none'})"
        )
    for worker in run.workers:
        given = worker["arguments"][2:]
        if given != list(ARGUMENTS):
            broken(
                f"{what} gives the worker the arguments {given!r}, which were {list(ARGUMENTS)!r}: pass each as it is"
            )
        for name, value in component.environment(options, Devices(processes=processes)).items():
            if worker["environment"].get(name) != value:
                broken(f"{what} does not hand on the environment: {name} is {worker['environment'].get(name)!r} there")


def _check_one(component: Launcher, options: Any) -> None:
    after(COMMAND, _check_command, component, options)
    after(ENVIRONMENT, _check_environment, component, options)
    _require_place(component, options, 1)
    run = _run(component, options, 1)
    _check_started(component, options, run, 1)
    size = run.workers[0]["variables"].get("WORLD_SIZE", "1")
    if size != "1":
        broken(f"the command of launcher '{component.name}' for 1 process says that there are {size}, in WORLD_SIZE")
    if run.code != 0:
        broken(
            f"the command of launcher '{component.name}' ends with exit code {run.code} where its worker ended with 0 "
            f"(its output: {run.log or 'none'})"
        )


def _check_several(component: Launcher, options: Any, processes: int = 2) -> None:
    after(ONE, _check_one, component, options)
    _require_place(component, options, processes)
    what = f"the command of launcher '{component.name}' for {processes} processes"
    run = _run(component, options, processes, watch=partial(_require_variables, what))
    _check_started(component, options, run, processes)
    if run.code != 0:
        broken(
            f"{what} ends with exit code {run.code}: the processes did not meet at MASTER_ADDR:MASTER_PORT "
            f"(its output: {run.log or 'none'})"
        )


def _require_variables(what: str, workers: _Workers) -> None:
    variables = [worker["variables"] for worker in workers]
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        if lacking := [worker for worker in variables if not worker.get(name)]:
            broken(f"{what} starts {len(lacking)} of them without {name} in the environment")
    ranks = sorted(worker["RANK"] for worker in variables)
    if ranks != [str(rank) for rank in range(len(workers))]:
        broken(f"{what} numbers them {', '.join(ranks)} in RANK: number them from 0, each once")
    if sizes := {worker["WORLD_SIZE"] for worker in variables} - {str(len(workers))}:
        broken(f"{what} says {sizes.pop()} in WORLD_SIZE")
    masters = {(worker["MASTER_ADDR"], worker["MASTER_PORT"]) for worker in variables}
    if len(masters) > 1:
        broken(f"{what} tells them different places to meet: {masters}")


def _check_failing(component: Launcher, options: Any, processes: int) -> None:
    after(ONE, _check_one, component, options)
    _require_place(component, options, processes)
    if processes > 1:
        after(SEVERAL, _check_several, component, options)
    run = _run(component, options, processes, failing=str(processes - 1))
    if run.code == 0:
        broken(
            f"the command of launcher '{component.name}' ends with exit code 0 where one of {processes} workers ended "
            "with 3: pass a failure on, or a half-finished stage is published"
        )
    seconds = run.ended - max((worker["time"] for worker in run.workers), default=run.ended)
    if seconds > FAILING_SECONDS:
        broken(
            f"the command of launcher '{component.name}' ends {seconds:.0f} s after one of its workers has failed: "
            "end the others then, which wait for it"
        )
