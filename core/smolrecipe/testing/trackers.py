"""What a tracker must hold: it takes every event, keeps its hands off it, and stays in the stage's folder."""

from __future__ import annotations

import copy
import gc
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from smolrecipe.components import Tracker
from smolrecipe.errors import StageError
from smolrecipe.stage import METRICS_FILE, StageContext
from smolrecipe.testing.attempts import after, make, only_where, options_kept, reporting, without_network
from smolrecipe.testing.contract import Check, broken

Log = Callable[[Mapping[str, Any]], Any]

STEPS = 20
EVENTS: tuple[dict[str, Any], ...] = (
    {"message": "source 'web' has no held-out row"},
    *(
        {"step": step, "steps": STEPS, "loss": 4.0 / step, "lr": 3e-4, "tokens_per_second": 1234}
        for step in range(1, STEPS + 1)
    ),
    {"step": STEPS, "steps": STEPS, "loss": math.nan, "grad_norm": math.inf},
    {"step": STEPS, "steps": STEPS},
    {"message": "Zwölf Ω, 数学\nand a second line"},
    {
        "step": 3,
        "steps": STEPS,
        "loss": 1.0,
        "note": "text",
        "best": True,
        "of": {"web": 0.5},
        "list": [1],
        "none": None,
    },
    {"something": "that no tracker knows"},
)
"""What stages report: sentences, steps with metrics, numbers that are none, and what another plugin's stage adds."""

TAKES = "it takes every event"


def checks(component: Tracker, options: Any) -> Iterator[Check]:
    """The checks of a tracker with the options of its example."""
    for name, check in (
        (TAKES, _check_takes),
        ("it leaves events as they are", _check_events),
        ("it writes in the stage's folder alone", _check_folder),
        ("it goes on after an interruption", _check_resumes),
        ("a stage may report nothing", _check_silence),
    ):
        yield Check(name=name, run=partial(make, check, component, options))


@contextmanager
def _stage(component: Tracker, options: Any) -> Iterator[tuple[Callable[[], Log], Path]]:
    """A function that opens the tracker, for a stage in a folder of its own below the working and the home folder.

    There is no network: a tracker that asks for one and says in a ``StageError`` that it cannot do without is skipped.
    """
    refused = ""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "stage").mkdir()
        (folder / "stage" / METRICS_FILE).write_text(json.dumps({"step": 1, "steps": STEPS}) + "\n")
        context = StageContext(recipe="conformance", stage="train", folder=folder / "stage")
        stack.callback(os.chdir, Path.cwd())
        os.chdir(folder)
        home = os.environ.get("HOME")
        stack.callback(os.environ.__setitem__ if home is not None else os.environ.pop, "HOME", home or "")
        os.environ["HOME"] = str(folder)
        tried = stack.enter_context(without_network())

        def open_tracker() -> Log:
            what = f"open of tracker '{component.name}'"
            log: Log = options_kept(what, options, lambda: component.open(options, context))
            if not callable(log):
                broken(f"{what} returns {log!r}: return a function that takes an event")
            return log

        try:
            with reporting(f"tracker '{component.name}'"):
                yield open_tracker, folder
        except AssertionError as error:
            if not (tried and _is_refusal(error)):
                raise
            refused = str(error)
    only_where(not refused, f"tracker '{component.name}' cannot be tried without a network: {refused}")


def _is_refusal(error: BaseException) -> bool:
    return isinstance(error.__cause__, StageError)


def _log_all(component: Tracker, log: Log) -> None:
    for event in EVENTS:
        with reporting(f"tracker '{component.name}', told of {event!r},"):
            log(copy.deepcopy(event))


def _check_takes(component: Tracker, options: Any) -> None:
    with _stage(component, options) as (open_tracker, _):
        _log_all(component, open_tracker())


def _check_events(component: Tracker, options: Any) -> None:
    after(TAKES, _check_takes, component, options)
    with _stage(component, options) as (open_tracker, _):
        log = open_tracker()
        for event in EVENTS:
            given = copy.deepcopy(event)
            log(given)
            if repr(given) != repr(event):  # nan equals nothing
                broken(
                    f"tracker '{component.name}' changes an event: it was {event!r} and is {given!r}. Others are told "
                    "of the same one, so make a copy"
                )


def _check_folder(component: Tracker, options: Any) -> None:
    after(TAKES, _check_takes, component, options)
    with _stage(component, options) as (open_tracker, folder):
        before = (folder / "stage" / METRICS_FILE).read_bytes()
        _log_all(component, open_tracker())
        outside = [path for path in sorted(folder.rglob("*")) if path.relative_to(folder).parts[0] != "stage"]
        if outside:
            broken(
                f"tracker '{component.name}' writes '{outside[0].relative_to(folder)}' into the working or the home "
                "folder: write below context.folder, which is published with what the stage has made"
            )
        odd = [path for path in sorted((folder / "stage").rglob("*")) if path.is_symlink() or not _is_plain(path)]
        if odd:
            left = odd[0].relative_to(folder / "stage")
            broken(
                f"tracker '{component.name}' leaves '{left}', a link or no regular file: a stage with such a thing in "
                "its folder is not published"
            )
        if (folder / "stage" / METRICS_FILE).read_bytes() != before:
            broken(f"tracker '{component.name}' writes into {METRICS_FILE}, which is the runner's: take another name")


def _is_plain(path: Path) -> bool:
    return path.is_file() or path.is_dir()


def _check_resumes(component: Tracker, options: Any) -> None:
    """A stage started again goes on in the same folder and does some steps once more."""
    after(TAKES, _check_takes, component, options)
    with _stage(component, options) as (open_tracker, _):
        _log_all(component, open_tracker())
        with reporting(f"tracker '{component.name}', opened again in the folder of an interrupted stage,"):
            log = open_tracker()
            log({"step": STEPS // 2, "steps": STEPS, "loss": 1.0})


def _check_silence(component: Tracker, options: Any) -> None:
    after(TAKES, _check_takes, component, options)
    raised: list[str] = []
    hook = sys.unraisablehook
    with _stage(component, options) as (open_tracker, _):
        sys.unraisablehook = lambda said: raised.append(repr(said.exc_value))
        try:
            log = open_tracker()
            del log
            gc.collect()
        finally:
            sys.unraisablehook = hook
    if raised:
        broken(f"tracker '{component.name}' fails where a stage ends that has reported nothing: {raised[0]}")
