"""Judges mutants of recipes in a process of its own: ``python recipe_judge.py SEED START STOP`` says a line for each.

The process may not grow, nor write, nor start anything, nor reach the network, while a mutant is validated and planned;
what it tries is in the verdict. Whoever started it sees a hang, and a crash of the interpreter, by what is not said.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recipe_drafts import lay_out
from recipe_mutants import Mutant, bases, mutant

from smolrecipe.cli.main import main
from smolrecipe.cli.plan_command import lacking
from smolrecipe.cli.session import Session, store_of
from smolrecipe.errors import Problem, RecipeError
from smolrecipe.planning.plan import Plan
from smolrecipe_registry.discovery import plugin_entries

MOST_MEMORY = 2 * 2**30
MOST_SECONDS = 5.0
LONGEST_MESSAGE = 500
ENGINES = {"torch", "transformers", "trl", "mergekit", "torchtitan", "datasets", "datatrove", "lm_eval"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_FORBIDDEN = re.compile(
    r"os\.(mkdir|rename|remove|rmdir|link|symlink|truncate|chmod|chown|utime|setxattr|system|exec|fork|posix_spawn|kill|"
    r"putenv|unsetenv)|subprocess\.Popen|shutil\..*|tempfile\..*|socket\..*|urllib\.Request|pickle\.find_class|"
    r"ctypes\.dlopen|mmap\.__new__"
)
_MACHINE_WORDS = re.compile(
    r"<[\w.]+ object at |<class |<function |<built-in |\b(smolrecipe|attrs?|cattrs|yaml|builtins)(\.\w+)+\.\w+|"
    r"Traceback|"
    r"NoneType|\w+(Error|Exception)\b|PlacedText|Node\(|Use\(|StageRef\(|\\\\x|'str'|'int'|'dict'|'list'|codec"
)


class Watch:
    """An audit hook that notes what a recipe has no business to do, while it is on."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open":
            path, mode, flags = arguments
            if (flags or 0) & _WRITING or set(str(mode or "")) & set("wax+"):
                self.seen.append(f"opens {path!r} to write")
        elif event == "import":
            if arguments[0].partition(".")[0] in ENGINES:
                self.seen.append(f"imports {arguments[0]}")
        elif _FORBIDDEN.fullmatch(event):
            self.seen.append(f"{event}{arguments[:2]!r}")

    @contextlib.contextmanager
    def watching(self) -> Iterator[list[str]]:
        """Watch for a while; what is seen is in the list."""
        self.seen, self.on = [], True
        try:
            yield self.seen
        finally:
            self.on = False


def judge(found: Mutant, folder: Path, watch: Watch) -> dict[str, Any]:
    """Validate and plan the mutant as the command line does, and say what was wrong with how that went."""
    lay_out(folder, dict(found.files))
    recipe = str(folder / found.base.main)
    plugins = ("toy",) if found.base.plugins == "toy" else tuple(name for name in plugin_entries() if name != "toy")
    session = Session(plugins)
    wrong: list[str] = []
    outcome, problems = "valid", []
    started = time.process_time()
    with watch.watching() as seen:
        try:
            if sweep := session.sweep(recipe, found.settings, found.sweeps):
                plans = [planned.plan for planned in sweep.variants]
            else:
                plans = [session.plan(recipe, found.settings)]
            notes = [note for plan in plans[:1] for note in lacking(plan, plan.stages)]
        except RecipeError as error:
            outcome, problems = "refused", [*error.problems]
        except (Exception, SystemExit) as error:
            outcome = "raised"
            last = traceback.extract_tb(error.__traceback__)[-3:]
            where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(last))
            wrong.append(f"{type(error).__name__}: {str(error)[:200]!r} at {where}")
    seconds = time.process_time() - started
    wrong += [f"it {what}" for what in dict.fromkeys(seen)]
    if seconds > MOST_SECONDS:
        wrong.append(f"took {seconds:.1f} s")
    if outcome == "refused":
        wrong += [complaint for problem in problems[:200] for complaint in complaints(problem)]
        if len("\n".join(map(str, problems))) > 500_000:
            wrong.append(f"says {len(problems)} problems")
    elif outcome == "valid":
        wrong += [complaint for note in notes for complaint in complaints(note)]
        wrong += [complaint for plan in plans[:3] for complaint in outside(plan)]
        if found.refused:
            wrong.append("passed, though it must be refused")
    said = [str(problem).replace(f"{folder}/", "") for problem in problems[:3]]
    return {"outcome": outcome, "seconds": round(seconds, 2), "wrong": wrong[:5], "said": said}


def complaints(problem: Problem) -> Iterator[str]:
    """What a newcomer would not understand about a problem."""
    text, place = problem.message, problem.place
    if place is None or not (place.line is not None or place.file.startswith(("--set", "--sweep"))):
        yield f"has no place: {text[:150]!r}"
    if len(text) > LONGEST_MESSAGE:
        yield f"is {len(text)} characters long: {text[:150]!r}"
    if not text.isprintable():
        yield f"is not printable: {text[:150]!r}"
    if (
        place is not None
        and not place.file.startswith("/")
        and not (place.file.isprintable() and len(place.file) < 300)
    ):
        yield f"has an odd place: {place.file[:150]!r}"
    if machine := _MACHINE_WORDS.search(text):
        yield f"speaks of {machine.group()!r}: {text[:300]!r}"


def outside(plan: Plan) -> Iterator[str]:
    """Folders that a run of the plan would make elsewhere than in the run store, or twice."""
    runs = Path("/runs")
    store = store_of(plan.recipe, runs)
    if Path(os.path.normpath(store.root)).parent != runs:
        yield f"its run store is {str(store.root)[:100]!r}"
    folders = [store.partial(stage) for stage in plan.stages]
    for folder in folders:
        if Path(os.path.normpath(folder)).parent != store.root or len(os.fsencode(folder.name)) > 240:
            yield f"a stage's folder is {str(folder)[:100]!r}"
    names = [stage.name.casefold() for stage in plan.stages]
    if len(set(names)) < len(names):
        yield f"stages have one name: {names!r:.100}"


def through_the_command_line(found: Mutant, folder: Path, watch: Watch) -> list[str]:
    """What is wrong with what ``validate`` and ``plan`` print, run in this process."""
    lay_out(folder, dict(found.files))
    arguments = [str(folder / found.base.main)]
    arguments += [part for setting in found.settings for part in ("--set", setting)]
    arguments += [part for sweep in found.sweeps for part in ("--sweep", sweep)]
    wrong = []
    for command in ("validate", "plan", "show"):
        more = ["--runs", str(folder / "runs")] if command == "plan" else []
        given = arguments if command != "show" else arguments[: 1 + 2 * len(found.settings)]
        out = io.StringIO()
        with watch.watching() as seen, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            try:
                main([*(("--plugins", "toy") if found.base.plugins == "toy" else ()), command, *more, *given])
                code = 0
            except SystemExit as error:
                code = int(error.code or 0)
            except BaseException as error:
                code = -1
                wrong.append(f"{command} raises {type(error).__name__}: {str(error)[:100]}")
        said = out.getvalue()
        odd = next((character for character in said if not character.isprintable() and character != "\n"), None)
        if code not in (0, 2, -1):
            wrong.append(f"{command} ends with {code}: {said[-200:]!r}")
        if odd is not None:
            at = said.index(odd)
            wrong.append(f"{command} prints {odd!r}: {said[max(0, at - 60) : at + 20]!r}")
        wrong += [f"{command} {what}" for what in seen]
    return wrong


def judge_all(seed: int, start: int, stop: int, every: int) -> None:
    """Say of each mutant first that it comes, then its verdict; every so many go through the command line, too."""
    os.environ.pop("SMOLRECIPE_PLUGINS", None)
    sys.dont_write_bytecode = True
    among = bases()
    for plugins in (("toy",), tuple(name for name in plugin_entries() if name != "toy")):
        _ = Session(plugins).registry
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    watch = Watch()
    for index in range(start, stop):
        found = mutant(seed, index, among)
        print(json.dumps({"index": index, "kind": found.kind, "base": found.base.name, "why": found.why}), flush=True)
        with tempfile.TemporaryDirectory() as folder:
            verdict = judge(found, Path(folder, "recipe"), watch)
            if index % every == 0:
                verdict["wrong"] += through_the_command_line(found, Path(folder, "again"), watch)
        print(
            json.dumps({**verdict, "index": index, "kind": found.kind, "base": found.base.name, "why": found.why}),
            flush=True,
        )


if __name__ == "__main__":
    judge_all(*map(int, sys.argv[1:5]))
