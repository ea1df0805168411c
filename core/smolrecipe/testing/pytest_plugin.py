"""Fixtures for the tests of plugins: recipes in a temporary folder, and the command line in a process of its own.

Installing smolrecipe gives them to pytest. A test asks for them by name::

    def test_my_stage_runs(write_recipe, smolrecipe):
        recipe = write_recipe('''
            name: mine
            stages:
              one: {use: my_stage}
        ''')
        assert "1 stages, 1 run now" in smolrecipe("run", recipe, check=0).stdout
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Protocol

import pytest

_LONGEST_SECONDS = 300


class WriteRecipe(Protocol):
    """What the fixture ``write_recipe`` is."""

    def __call__(self, text: str, name: str = "recipe.yaml") -> Path:
        """Write ``text`` to a file of that name below the test's ``tmp_path`` and return its path.

        Indentation that all lines share is dropped.
        """
        ...


class RunSmolrecipe(Protocol):
    """What the fixture ``smolrecipe`` is."""

    def __call__(self, *arguments: str | Path, check: int | None = None) -> subprocess.CompletedProcess[str]:
        """Run ``python -m smolrecipe ARGUMENTS`` in the test's ``tmp_path`` and return what it printed.

        Args:
            arguments: the command and its arguments, for example ``"run", recipe, "--json"``.
            check: the exit code that the test expects: 0, 1 for a failed run, 2 for a mistake that can be mended;
                ``None`` where the test looks at it itself.

        Raises:
            AssertionError: for another exit code, with all that was printed, and for a traceback, which no user sees.
        """
        ...


@pytest.fixture
def write_recipe(tmp_path: Path) -> WriteRecipe:
    """Write a recipe file: ``write_recipe(text, name="recipe.yaml")`` returns its path."""

    def write(text: str, name: str = "recipe.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    return write


@pytest.fixture
def smolrecipe(tmp_path: Path) -> RunSmolrecipe:
    """Run the command line: ``smolrecipe("run", recipe, check=0)`` returns the finished process.

    It runs in the temporary folder, so the run store is ``tmp_path / "runs"``, in a process of its own that loads the
    plugins which the environment variable ``SMOLRECIPE_PLUGINS`` names, all where it is not set.
    """

    def run(*arguments: str | Path, check: int | None = None) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            [sys.executable, "-m", "smolrecipe", *map(str, arguments)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=_LONGEST_SECONDS,
            env={**os.environ, "COLUMNS": "120"},
            check=False,
        )
        assert "Traceback" not in result.stderr, result.stderr
        if check is not None:
            assert result.returncode == check, result.stdout + result.stderr
        return result

    return run
