"""Publishing survives a kill between any two things that it does to the file system, and no work is done twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from smolrecipe.cli.main import main
from smolrecipe.running.manifest import damages
from smolrecipe.running.notes import NOTES_FOLDER
from smolrecipe.stage import read_events

pytestmark = pytest.mark.usefixtures("toy_plugin")

TOY = Path(__file__).parents[1] / "toy_plugin"
Write = Callable[..., Path]
RECIPE = (
    "name: toy\nlauncher: {use: direct}\nstages:\n  one: {use: count, to: 3}\n  two: {use: count, to: 2, from: one}\n"
)
WITH_TIMES = {"stage.json", "metrics.jsonl", "log.txt"}
WHEN = {"seconds", "started", "attempts", "provenance", "smolrecipe"}
"""What a record says of when, and by what state of this checkout, the artifact was made."""
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink", "shutil.rmtree"}


def change(event: str, arguments: tuple[Any, ...], below: Path) -> str:
    """What an audit event is about to change below a folder, if anything."""
    if event == "open":
        path, _, flags = arguments
        if not isinstance(path, (str, bytes)) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return ""
    elif event in CHANGES:
        path = arguments[0]
        if isinstance(path, int):
            return f"{event} of an open file"
    else:
        return ""
    name = os.fsdecode(path)  # relative to the folder that is worked in, or to one that is being deleted
    return f"{event} {name}" if name.startswith(str(below)) or not name.startswith("/") else ""


def run(folder: Path, recipe: Path, kill: Callable[[int, str], bool] = lambda seen, what: False) -> int:
    """``smolrecipe run`` in a fork, in ``folder``; it is killed before the first change for which ``kill`` says so.

    ``folder/killed.txt`` has the change then, ``folder/said.txt`` what was printed.

    Returns:
        The exit code, negative for a signal.
    """
    said = (folder / "said.txt").open("a")
    killed = os.open(folder / "killed.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    process = os.fork()
    if process:
        said.close()
        os.close(killed)
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    try:
        os.chdir(folder)
        sys.stdout = sys.stderr = said
        sys.argv = ["smolrecipe", "run", str(recipe)]
        seen = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal seen
            if what := change(event, arguments, folder / "runs"):
                seen += 1
                if kill(seen, what):
                    os.write(killed, what.encode())
                    said.flush()
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        main(sys.argv[1:])
    except SystemExit as ended:
        said.flush()
        os._exit(ended.code if isinstance(ended.code, int) else 0)
    except BaseException:
        traceback.print_exc()
        said.flush()
        os._exit(99)
    said.flush()
    os._exit(0)


def content(folder: Path) -> dict[str, Any]:
    """What is published, by path; of files that tell times the rest."""
    found: dict[str, Any] = {}
    for path in sorted((folder / "runs/toy").glob("*-*/**/*")):
        name = str(path.relative_to(folder))
        if path.is_file() and path.name not in {*WITH_TIMES, "manifest.json"}:
            found[name] = path.read_bytes()
        elif path.name == "stage.json":
            record = json.loads(path.read_text())
            found[name] = {key: value for key, value in record.items() if key not in WHEN}
        elif path.name == "manifest.json":
            found[name] = [*json.loads(path.read_text())]
            assert damages(path.parent) == []
        elif path.name == "metrics.jsonl":
            steps = [event["step"] for event in read_events(path) if "step" in event]
            assert steps == sorted(set(steps))
            found[name] = steps[-1]  # the toy keeps its state first and tells of the step then: a kill may lose that
    return found


def times_counted(folder: Path, stage: str) -> int:
    """How often the stage's work was done to its end."""
    (metrics,) = (folder / "runs/toy").glob(f"{stage}-*/metrics.jsonl")
    return sum("counted in process" in str(event.get("message")) for event in read_events(metrics))


@pytest.fixture
def recipe(write_recipe: Write) -> Path:
    return write_recipe(RECIPE)


@pytest.fixture
def plain(tmp_path: Path, recipe: Path) -> dict[str, Any]:
    """What a run publishes that nobody kills."""
    folder = tmp_path / "plain"
    folder.mkdir()
    assert run(folder, recipe) == 0, (folder / "said.txt").read_text()
    return content(folder)


def trials(tmp_path: Path, before: Path | None = None) -> Iterator[Path]:
    """Folders for one trial each, with a copy of what was there before."""
    for number in range(1, 200):
        folder = tmp_path / f"trial-{number}"
        if before is None:
            folder.mkdir()
        else:
            shutil.copytree(before, folder, symlinks=True)
        yield folder
        shutil.rmtree(folder)
    raise AssertionError("a run that is never through")


def test_a_kill_before_each_change_that_publishing_makes(tmp_path: Path, recipe: Path, plain: dict[str, Any]) -> None:
    """From where the stage's processes have ended up to where its folder has its name."""

    def next_begins(seen: int, what: str) -> bool:
        return "/two-" in what

    done = tmp_path / "done"
    done.mkdir()
    code = run(done, recipe, lambda seen, what: what.endswith(".stage.json.new"))
    assert code == -signal.SIGKILL, (done / "said.txt").read_text()
    expected = {name: value for name, value in plain.items() if "/one-" in name}
    killed: list[str] = []
    for number, folder in enumerate(trials(tmp_path, done), start=1):
        code = run(folder, recipe, lambda seen, what: seen == number or next_begins(seen, what))  # noqa: B023
        assert code == -signal.SIGKILL, (folder / "said.txt").read_text()
        before = (folder / "killed.txt").read_text()
        if next_begins(number, before):
            break
        killed.append(before)
        code = run(folder, recipe, next_begins)
        assert code == -signal.SIGKILL, (folder / "said.txt").read_text()
        assert times_counted(folder, "one") == 1, before
        assert content(folder) == expected, before
        assert not [*(folder / "runs/toy").glob("one-*.partial")]
    for name in (".stage.json.new", "task.json", "result.json", NOTES_FOLDER, ".manifest.json.new"):
        assert any(name in what for what in killed), (name, killed)
    assert any(what.startswith("os.rename") and what.endswith(".partial") for what in killed), killed


every = pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.chaos)])
"""Every seventh of the moments; in the long form every one."""


@every
def test_a_kill_before_each_change_that_the_runner_makes_before_a_stage_works(
    tmp_path: Path, recipe: Path, plain: dict[str, Any], stride: int
) -> None:
    moments = []
    for number, folder in enumerate(trials(tmp_path)):
        moment = 1 + number * stride
        code = run(folder, recipe, lambda seen, what: seen == moment or "stage.json.new" in what)  # noqa: B023
        assert code == -signal.SIGKILL, (folder / "said.txt").read_text()
        before = (folder / "killed.txt").read_text()
        moments.append(before)
        assert run(folder, recipe) == 0, (before, (folder / "said.txt").read_text())
        assert content(folder) == plain, before
        if "stage.json.new" in before:
            break
    assert moment >= 15, moments


KILLER = """
import os, signal, sys

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.truncate"}
seen = 0


def hook(event, arguments):
    global seen
    writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if (writes or event in CHANGES) and "runs/" in str(arguments[0]):
        seen += 1
        if seen == moment:
            os.kill(os.getpid(), signal.SIGKILL)


moment = int(os.environ.get("KILL_AT", "0"))
if moment and "_stage" in sys.argv:
    sys.addaudithook(hook)
"""


@every
def test_a_kill_before_each_change_that_a_stage_s_process_makes(
    tmp_path: Path,
    recipe: Path,
    plain: dict[str, Any],
    stride: int,
    plant: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant("smolrecipe_killer", {"__init__.py": KILLER}, plugin="killer")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}{os.pathsep}{TOY}")
    monkeypatch.setenv("SMOLRECIPE_PLUGINS", "toy,killer")
    without_killer = {name: value for name, value in plain.items() if not name.endswith("stage.json")}
    killed = 0
    for number, folder in enumerate(trials(tmp_path)):
        monkeypatch.setenv("KILL_AT", str(1 + number * stride))
        code = run(folder, recipe)
        said = (folder / "said.txt").read_text()
        monkeypatch.setenv("KILL_AT", "0")
        if code:
            assert "stage 'one' was ended by SIGKILL" in said or "stage 'two' was ended by SIGKILL" in said, said
            killed += 1
            assert run(folder, recipe) == 0, (folder / "said.txt").read_text()
        found = content(folder)
        assert {name: value for name, value in found.items() if not name.endswith("stage.json")} == without_killer
        if not code:
            break
    assert killed * stride >= 10
