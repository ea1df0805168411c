"""The tutorials, word for word: every file they show is written, every command they show is run, in their order.

A fenced block ``python file=PATH`` is written to that path. In a ``console`` block each line ``$ command`` is run in
the tutorial's folder, and what it prints must be what the block shows, where ``...`` stands for anything.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import frozen

DOCS = Path(__file__).parents[1] / "docs"
TUTORIALS = sorted(path.name for path in DOCS.glob("write-a-*.md"))
LONGEST = 160
LONGEST_SECONDS = 120

_FENCE = re.compile(r"^```(?P<info>[^\n]*)\n(?P<body>.*?)^```$", flags=re.MULTILINE | re.DOTALL)


@frozen(kw_only=True)
class Block:
    """A fenced block of a page."""

    language: str
    file: str
    body: str

    def commands(self) -> Iterator[tuple[str, str]]:
        """Each command of a console block with what is shown below it."""
        command, shown = "", ""
        for line in self.body.splitlines(keepends=True):
            if line.startswith("$ "):
                if command:
                    yield command, shown
                command, shown = line[2:].strip(), ""
            else:
                shown += line
        yield command, shown


def blocks(text: str) -> Iterator[Block]:
    for fence in _FENCE.finditer(text):
        language, _, file = fence["info"].partition(" file=")
        yield Block(language=language, file=file, body=fence["body"])


class Reader:
    """Somebody who follows a tutorial in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.installed: list[Path] = []

    def follow(self, text: str) -> None:
        for block in blocks(text):
            if block.file:
                path = self.folder / block.file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.body)
            elif block.language == "console":
                for command, shown in block.commands():
                    self.type(command, shown)

    def type(self, command: str, shown: str) -> None:
        """Run the command and compare; it must fail where a mistake is shown, and succeed where not."""
        program, *arguments = shlex.split(command)
        if program == "pip":
            self.install(arguments)
            return
        assert program == "smolrecipe", f"the tests cannot run {command!r}"
        result = subprocess.run(
            [sys.executable, "-m", "smolrecipe", *arguments],
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LONGEST_SECONDS,
        )
        fails = bool(re.match(r"(error|\.\.\.): ", shown))  # a mistake, at its place or without one
        assert (result.returncode != 0) == fails, f"$ {command}\n{result.stdout}"
        if shown:
            assert matches(shown, result.stdout), f"$ {command}\n{result.stdout}\nwhere the tutorial shows\n{shown}"

    def install(self, arguments: list[str]) -> None:
        """``pip install --editable PROJECT``, without pip: a test downloads nothing and changes no environment.

        That pip installs such a project is tested where the project comes from, with ``smolrecipe plugin new``.
        """
        command, editable, project = arguments
        assert (command, editable) == ("install", "--editable")
        root = self.folder / project.partition("[")[0]
        declared = tomllib.loads((root / "pyproject.toml").read_text())["project"]
        info = root / "src" / f"{declared['name'].replace('-', '_')}-{declared['version']}.dist-info"
        info.mkdir()
        lines = ["Metadata-Version: 2.1", f"Name: {declared['name']}", f"Version: {declared['version']}"]
        lines += [f"Requires-Dist: {requirement}" for requirement in declared["dependencies"]]
        (info / "METADATA").write_text("\n".join(lines) + "\n")
        points = declared["entry-points"]["smolrecipe"].items()
        (info / "entry_points.txt").write_text(
            "[smolrecipe]\n" + "".join(f"{key} = {value}\n" for key, value in points)
        )
        self.installed.append(root / "src")

    def environment(self) -> dict[str, str]:
        hidden = ("SMOLRECIPE_PLUGINS", "SMOLRECIPE_ALONE", "SMOLRECIPE_RUNS", "PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST")
        inherited = {name: value for name, value in os.environ.items() if name not in hidden}
        path = os.pathsep.join(map(str, self.installed))
        return {**inherited, "PYTHONPATH": path, "COLUMNS": "120", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def matches(shown: str, printed: str) -> bool:
    """Whether the output is what is shown, ``...`` standing for anything and any space for any other."""
    return doctest.OutputChecker().check_output(shown, printed, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)


@pytest.mark.pipeline
@pytest.mark.parametrize("name", TUTORIALS)
def test_following_the_tutorial_gives_what_it_shows(name: str, tmp_path: Path) -> None:
    Reader(tmp_path).follow((DOCS / name).read_text())


@pytest.mark.parametrize("name", TUTORIALS)
def test_a_tutorial_is_short_and_runs_something(name: str) -> None:
    text = (DOCS / name).read_text()
    assert len(text.splitlines()) <= LONGEST
    assert all(len(line) <= 120 for line in text.splitlines())
    commands = [command for block in blocks(text) if block.language == "console" for command, _ in block.commands()]
    assert any(command.startswith("smolrecipe plugins test") for command in commands)
    assert any(command.startswith("smolrecipe run") for command in commands)
    assert all(block.file or block.language == "console" for block in blocks(text)), "a block that nothing checks"


def test_both_tutorials_are_there() -> None:
    assert TUTORIALS == ["write-a-model-component.md", "write-a-preference-loss.md"]


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        ("```console\n$ smolrecipe --version\nsmolrecipe, version 9\n```\n", "where the tutorial shows"),
        ("```console\n$ smolrecipe validate quick.yaml\n```\n", "no recipe 'quick.yaml'"),
        ("```yaml file=quick.yaml\nname: quick\n```\n```console\n$ smolrecipe validate quick.yaml\n```\n", "stages"),
        ("```console\n$ smolrecipe --version\nerror: ...\n```\n", "smolrecipe, version"),
        ("```console\n$ rm quick.yaml\n```\n", "cannot run 'rm quick.yaml'"),
    ],
)
def test_a_page_that_shows_something_else_fails(page: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=re.escape(complaint)):
        Reader(tmp_path).follow(page)


def test_a_page_that_shows_what_is_printed_passes(tmp_path: Path) -> None:
    Reader(tmp_path).follow("```console\n$ smolrecipe --version\nsmolrecipe, version ...\n```\n")
