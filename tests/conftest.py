"""Fixtures of this repository's own tests; those that any plugin's tests may use are ``smolrecipe.testing``'s."""

from __future__ import annotations

import importlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path

import pytest

_KIT = "smolrecipe.testing.pytest_plugin"
# An installation gives pytest the kit's fixtures; one that is older than they are does not.
pytest_plugins = [] if any(entry.value == _KIT for entry in entry_points(group="pytest11")) else [_KIT]

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


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Lay out a distribution as pip would, for this process and those it starts; returns its package's folder.

    ``plant(package, {"__init__.py": code})``, with ``plugin`` naming the plugin that the package is, ``requires`` and
    ``extras`` in the words of a METADATA file.
    """
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))
    planted = []

    def plant(
        package: str,
        files: dict[str, str],
        *,
        plugin: str = "",
        requires: Sequence[str] = ("smolrecipe",),
        extras: Sequence[str] = (),
    ) -> Path:
        folder = site / package
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        info = site / f"{package}-1.0.dist-info"
        info.mkdir(exist_ok=True)
        lines = [
            *("Metadata-Version: 2.1", f"Name: {package}", "Version: 1.0"),
            *(f"Requires-Dist: {requirement}" for requirement in requires),
            *(f"Provides-Extra: {extra}" for extra in extras),
        ]
        (info / "METADATA").write_text("\n".join(lines) + "\n")
        (info / "top_level.txt").write_text(f"{package}\n")
        if plugin:
            (info / "entry_points.txt").write_text(f"[smolrecipe]\n{plugin} = {package}\n")
        planted.append(package)
        importlib.invalidate_caches()
        _forget_modules()
        return folder

    yield plant
    for module in [name for name in sys.modules if name.partition(".")[0] in planted]:
        del sys.modules[module]
    _forget_modules()


def _forget_modules() -> None:
    """The registry remembers which distribution brings which module; a test has just changed that."""
    from smolrecipe_registry import requirements

    requirements._modules_on.cache_clear()
