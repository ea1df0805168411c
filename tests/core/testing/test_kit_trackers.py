"""The checks of trackers: each catches a tracker that breaks it, and two that work pass."""

import json
import socket
import sqlite3
from pathlib import Path
from unittest import SkipTest

import pytest
from attrs import frozen

from smolrecipe import StageError, Tracker, option
from smolrecipe.testing.contract import ContractError
from smolrecipe.testing.trackers import EVENTS, checks


@frozen(kw_only=True)
class Options:
    file: str = option(default="events.txt", doc="the name of the file")
    settings: dict = option(factory=dict, doc="something that could be changed")


def to_text(options, context):
    """Append every event to a file that is opened for it."""

    def log(event):
        with (context.folder / options.file).open("a", encoding="utf-8") as file:
            file.write(f"{dict(event)}\n")

    return log


def to_database(options, context):
    """One row for each number of each step; a step that is done again replaces what it was."""
    database = sqlite3.connect(context.folder / "metrics.db")
    database.execute("create table if not exists metrics (step, name, value, primary key (step, name))")

    def log(event):
        for name, value in event.items():
            if "step" in event and isinstance(value, (int, float)):
                database.execute("insert or replace into metrics values (?, ?, ?)", (event["step"], name, value))
        database.commit()

    return log


def tracker(function):
    return Tracker(name="tried", summary="where metrics go", options=Options, open=function)


def outcomes(component):
    failed, skipped = {}, {}
    for check in checks(component, Options()):
        try:
            check.run()
        except ContractError as error:
            failed[check.name] = str(error)
        except SkipTest as reason:
            skipped[check.name] = str(reason)
    return failed, skipped


@pytest.mark.parametrize("function", [to_text, to_database])
def test_trackers_that_work_hold_their_contract(function, monkeypatch):
    before = Path.cwd(), Path.home()
    assert outcomes(tracker(function)) == ({}, {})
    assert (Path.cwd(), Path.home()) == before


def test_one_that_needs_a_server_is_skipped():
    def reach_out(options, context):
        try:
            socket.create_connection(("metrics.invalid", 443))
        except OSError as error:
            raise StageError(f"the server is out of reach: {error}") from None

    failed, skipped = outcomes(tracker(reach_out))
    assert not failed and len(skipped) == 5
    assert "cannot be tried without a network" in skipped["it takes every event"]


# Trackers that break a check


def knows_losses_only(options, context):
    return lambda event: event["loss"]


def writes_strict_json(options, context):
    return lambda event: json.dumps(event, allow_nan=False)


def opens_nothing(options, context):
    return None


def opens_no_server(options, context):
    socket.create_connection(("metrics.invalid", 443))


def takes_options_apart(options, context):
    options.settings[str(len(options.settings))] = True
    return to_text(options, context)


def adds_the_recipe(options, context):
    log = to_text(options, context)

    def add(event):
        event["recipe"] = context.recipe
        log(event)

    return add


def takes_lists_apart(options, context):
    return lambda event: event.get("list", [1]).pop()


def writes_here(options, context):
    return lambda event: Path("log.txt").write_text(str(event))


def writes_home(options, context):
    return lambda event: Path("~/.tried").expanduser().write_text(str(event))


def writes_metrics(options, context):
    return lambda event: (context.folder / "metrics.jsonl").write_text(str(event))


def links_elsewhere(options, context):
    (context.folder / "latest").unlink(missing_ok=True)
    (context.folder / "latest").symlink_to("metrics.jsonl")
    return to_text(options, context)


def needs_an_empty_folder(options, context):
    (context.folder / "tried").mkdir()
    return to_text(options, context)


def expects_steps_to_grow(options, context):
    last = context.folder / "last.txt"

    def log(event):
        if not last.exists() or event.get("something"):
            last.write_text("1")
        elif event.get("step") == 10 and (context.folder / "closed").exists():
            raise ValueError("step 10 after step 20")
        elif event.get("step") == 20:
            (context.folder / "closed").touch()

    return log


class Closes:
    """Sums up when it goes, whatever there was."""

    def __init__(self, options, context):
        self.events = []

    def __call__(self, event):
        self.events.append(event)

    def __del__(self):
        self.events[-1]


MUTANTS = {
    "it takes every event": [
        (knows_losses_only, "KeyError"),
        (writes_strict_json, "nan"),
        (opens_nothing, "returns None"),
        (opens_no_server, "gaierror"),
        (takes_options_apart, "changes the options"),
    ],
    "it leaves events as they are": [(adds_the_recipe, "conformance"), (takes_lists_apart, "'list': []")],
    "it writes in the stage's folder alone": [
        (writes_here, "log.txt"),
        (writes_home, ".tried"),
        (writes_metrics, "the runner's"),
        (links_elsewhere, "leaves 'latest', a link or no regular file"),
    ],
    "it goes on after an interruption": [
        (needs_an_empty_folder, "FileExistsError"),
        (expects_steps_to_grow, "step 10 after step 20"),
    ],
    "a stage may report nothing": [(Closes, "IndexError")],
}


@pytest.mark.parametrize(
    ("name", "function", "says"),
    [(name, function, says) for name, mutants in MUTANTS.items() for function, says in mutants],
)
def test_a_broken_tracker_is_caught_by_its_check(name, function, says):
    failed, _ = outcomes(tracker(function))
    assert list(failed) == [name]
    assert says in failed[name] and "'tried'" in failed[name]


def test_events_hold_what_stages_report():
    assert {"message"} in [set(event) for event in EVENTS]
    assert any({"step", "steps", "loss", "lr", "tokens_per_second"} <= set(event) for event in EVENTS)
