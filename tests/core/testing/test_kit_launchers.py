"""The checks of launchers: each catches a launcher that breaks it, and the built-in one passes."""

import json
import shlex
import sys
from unittest import SkipTest

import pytest
from attrs import evolve, frozen

from smolrecipe import Launcher, option
from smolrecipe.testing.contract import ContractError, example_of
from smolrecipe.testing.launchers import checks
from smolrecipe_registry.discovery import load_registry

CATALOG = load_registry().catalog


@frozen(kw_only=True)
class Options:
    settings: dict = option(factory=dict, doc="something that could be changed")


FORK = """
import itertools, json, os, socket, subprocess, sys, time
count, change, worker = int(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:]
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = str(probe.getsockname()[1])
processes = []
for rank in range(count):
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1",
             "MASTER_PORT": port}
    place.update({name: value[rank] for name, value in change.items()})
    place = {name: value for name, value in place.items() if value is not None}
    processes.append(subprocess.Popen([sys.executable, "-m", *worker], env={**os.environ, **place}))
while processes and all(process.poll() in (None, 0) for process in processes):
    if all(process.poll() == 0 for process in processes):
        sys.exit(0)
    time.sleep(0.05)
for process in processes:
    process.terminate()
sys.exit(1)
"""
"""A launcher of a few lines: starts the worker so many times, and ends all when one fails."""


def fork(change=None, script=FORK):
    """The command of that launcher. ``change``: variable -> its value in each of two processes."""

    def command(options, devices, worker):
        if devices.processes == 1:
            return [sys.executable, "-m", *worker]
        return [sys.executable, "-c", script, str(devices.processes), json.dumps(change or {}), *worker]

    return command


GOOD = Launcher(
    name="tried",
    summary="processes on this machine",
    options=Options,
    capacity=lambda options: {"cpu": 2},
    command=fork(),
    environment=lambda options, devices: {"TRIED": "yes"},
)


def outcomes(component, options=None):
    failed, skipped = {}, {}
    for check in checks(component, options or Options()):
        try:
            check.run()
        except ContractError as error:
            failed[check.name] = str(error)
        except SkipTest as reason:
            skipped[check.name] = str(reason)
    return failed, skipped


def test_the_built_in_launcher_holds_its_contract():
    component = CATALOG.get(Launcher, "local")
    assert outcomes(component, example_of(component, CATALOG)) == ({}, {})


def test_a_launcher_of_a_few_lines_holds_it():
    assert outcomes(GOOD) == ({}, {})


def test_what_cannot_be_started_from_here_is_skipped():
    failed, skipped = outcomes(evolve(GOOD, capacity=lambda options: {"cpu": 1}))
    assert not failed
    assert list(skipped) == [
        "several processes find each other",
        "its command fails when one of several workers does",
    ]
    failed, skipped = outcomes(evolve(GOOD, missing=lambda options: ["there is no srun here"]))
    assert not failed and len(skipped) == 4
    assert skipped["its command runs the worker"].endswith("there is no srun here")


# Launchers that break a check


def only_one(options, devices, worker):
    """One process, whatever is asked for."""
    return [sys.executable, "-m", *worker]


def through_a_shell(options, devices, worker):
    return ["sh", "-c", f"exec {shlex.quote(sys.executable)} -m {' '.join(worker)}"]


def without_arguments(options, devices, worker):
    return [sys.executable, "-m", *worker[:3]]


def forgets_the_environment(options, devices, worker):
    return ["env", "-u", "TRIED", *fork()(options, devices, worker)]


def hides_failures(options, devices, worker):
    command = fork()(options, devices, worker)
    return command if devices.processes > 1 else ["sh", "-c", '"$@" || true', "sh", *command]


def fails_always(options, devices, worker):
    return ["sh", "-c", '"$@"; exit 5', "sh", *fork()(options, devices, worker)]


def takes_options_apart(options, devices, worker):
    options.settings[str(len(options.settings))] = True
    return fork()(options, devices, worker)


def takes_worker_apart(options, devices, worker):
    worker.insert(0, sys.executable)
    return worker


HIDES_ONE_OF_SEVERAL = FORK.replace("sys.exit(1)", "sys.exit(0)")
WAITS_FOR_ALL = FORK.replace("process.terminate()", "process.wait()")

MUTANTS = {
    "what it can start is counted by device": [
        (evolve(GOOD, capacity=lambda options: 8), "8"),
        (evolve(GOOD, capacity=lambda options: {"gpu": 8}), "'gpu'"),
        (evolve(GOOD, capacity=lambda options: {"cuda": -1}), "-1"),
    ],
    "its command is a list of words": [
        (evolve(GOOD, command=lambda options, devices, worker: shlex.join(["python", *worker])), "a list of words"),
        (evolve(GOOD, command=lambda options, devices, worker: ["run", devices.processes, *worker]), "1, which is no"),
        (evolve(GOOD, command=takes_options_apart), "changes the options"),
        (evolve(GOOD, command=takes_worker_apart), "changes the worker"),
    ],
    "its environment is text": [
        (evolve(GOOD, environment=lambda options, devices: {"OMP_NUM_THREADS": 4}), "'OMP_NUM_THREADS': 4"),
        (evolve(GOOD, environment=lambda options, devices: ["A=1"]), "['A=1']"),
    ],
    "its command runs the worker": [
        (evolve(GOOD, command=lambda options, devices, worker: ["no-such-program", *worker]), "no program here"),
        (evolve(GOOD, command=lambda options, devices, worker: ["true", *worker]), "started the worker 0 times"),
        (evolve(GOOD, command=through_a_shell), "Unterminated quoted string"),
        (evolve(GOOD, command=without_arguments), "pass each as it is"),
        (evolve(GOOD, command=forgets_the_environment), "TRIED is None"),
        (evolve(GOOD, command=fails_always), "exit code 5"),
    ],
    "several processes find each other": [
        (evolve(GOOD, command=only_one), "started the worker 1 times"),
        (evolve(GOOD, command=fork({"RANK": ["0", "0"]})), "numbers them 0, 0"),
        (evolve(GOOD, command=fork({"WORLD_SIZE": ["4", "4"]})), "says 4 in WORLD_SIZE"),
        (evolve(GOOD, command=fork({"LOCAL_RANK": [None, None]})), "without LOCAL_RANK"),
        (evolve(GOOD, command=fork({"MASTER_PORT": ["29511", "29512"]})), "different places"),
    ],
    "its command fails when the worker does": [(evolve(GOOD, command=hides_failures), "ended with 3")],
    "its command fails when one of several workers does": [
        (evolve(GOOD, command=fork(script=HIDES_ONE_OF_SEVERAL)), "ended with 3"),
        (evolve(GOOD, command=fork(script=WAITS_FOR_ALL)), "s after one of its workers"),
    ],
}


@pytest.mark.parametrize(
    ("name", "component", "says"),
    [(name, component, says) for name, mutants in MUTANTS.items() for component, says in mutants],
    ids=[f"{name} {number}" for name, mutants in MUTANTS.items() for number in range(len(mutants))],
)
def test_a_broken_launcher_is_caught_by_its_check(name, component, says):
    failed, _ = outcomes(component)
    assert list(failed) == [name]
    assert says in failed[name] and "'tried'" in failed[name]
