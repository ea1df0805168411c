"""Fixtures that all tests share: the toy plugin, recipes in a temporary folder, the command line in a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

TOY = Path(__file__).parent / "toy_plugin"
REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture
def toy_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the toy plugin for this process and those it starts, and load no other."""
    monkeypatch.syspath_prepend(str(TOY))
    monkeypatch.setenv("PYTHONPATH", str(TOY))
    monkeypatch.setenv("SMOLRECIPE_PLUGINS", "toy")


@pytest.fixture
def write_recipe(tmp_path: Path) -> Callable[..., Path]:
    """Write a recipe file: ``write_recipe(text, name="r.yaml")``; common indentation is dropped."""

    def write(text: str, name: str = "recipe.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    return write


@pytest.fixture
def smolrecipe(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``python -m smolrecipe ARGUMENTS`` in the temporary folder."""

    def run(*arguments: str | Path, check: int | None = None) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            [sys.executable, "-m", "smolrecipe", *map(str, arguments)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "COLUMNS": "120"},
        )
        assert "Traceback" not in result.stderr, result.stderr
        if check is not None:
            assert result.returncode == check, result.stdout + result.stderr
        return result

    return run


@pytest.fixture
def start_smolrecipe(tmp_path: Path) -> Callable[[Sequence[str | Path]], subprocess.Popen[str]]:
    """Start ``python -m smolrecipe ARGUMENTS`` without waiting for it."""
    processes = []

    def start(arguments: Sequence[str | Path]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "smolrecipe", *map(str, arguments)],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell that runs the tests in the background leaves SIGINT ignored, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()
