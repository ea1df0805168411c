"""One plugin alone: its tests in a fresh interpreter where only the core, the registry and that plugin exist.

``python -m smolrecipe_registry.isolation NAME [PYTEST ARGUMENTS]`` runs the plugin's tests so. ``block_other_plugins``
is what makes the others disappear; the pytest plugin of this module calls it before any test is imported.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from smolrecipe.errors import RecipeError, near_miss
from smolrecipe_registry.discovery import GROUP, RESTRICTION

ALONE = "SMOLRECIPE_ALONE"
"""Environment variable with the name of the plugin that is tested alone."""


class OtherPluginError(ImportError):
    """A plugin under test imported another one."""


class _Blocker(importlib.abc.MetaPathFinder):
    """Refuses to import the packages of the plugins that are not under test."""

    def __init__(self, alone: str, blocked: frozenset[str]) -> None:
        self._alone = alone
        self._blocked = blocked

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] in self._blocked:
            raise OtherPluginError(f"plugin '{self._alone}' is tested alone, and {fullname} belongs to another plugin")
        return None


def block_other_plugins(alone: str) -> None:
    """Make every plugin but ``alone`` impossible to import in this process."""
    targets = {entry.name: entry.value.partition(":")[0].partition(".")[0] for entry in entry_points(group=GROUP)}
    blocked = frozenset(target for name, target in targets.items() if target != targets.get(alone))
    sys.meta_path.insert(0, _Blocker(alone, blocked))


def pytest_configure() -> None:
    """As a pytest plugin: block the others before tests are imported."""
    alone = os.environ.get(ALONE)
    if alone:
        block_other_plugins(alone)


def files_of(name: str, tests: Path) -> list[Path]:
    """The test files of a plugin: ``test_<name>.py`` and ``test_<name>_*.py``."""
    longer = [other for other in plugin_names() if other != name and other.startswith(f"{name}_")]
    files = [*tests.glob(f"test_{name}.py"), *tests.glob(f"test_{name}_*.py")]
    return sorted(file for file in files if not any(file.stem.startswith(f"test_{other}") for other in longer))


def plugin_names() -> list[str]:
    """The names of all installed plugins."""
    return sorted(entry.name for entry in entry_points(group=GROUP))


def run_alone(name: str, tests: Path, arguments: Sequence[str] = ()) -> int:
    """Run the tests of the plugin ``name`` alone and return pytest's exit code.

    Raises:
        RecipeError: when no such plugin is installed, or when it has no tests.
    """
    if name not in plugin_names():
        raise RecipeError([f"no plugin '{name}' is installed{near_miss(name, plugin_names())}"])
    files = files_of(name, tests)
    if not files:
        raise RecipeError([f"plugin '{name}' has no tests: {tests} holds no test_{name}.py"])
    command = [sys.executable, "-m", "pytest", "-p", "smolrecipe_registry.isolation", *map(str, files), *arguments]
    return subprocess.run(command, env={**os.environ, ALONE: name, RESTRICTION: name}, check=False).returncode


def main(arguments: Sequence[str]) -> int:
    """Run one plugin's tests alone, or with ``--all`` every plugin's, one after the other; report which failed."""
    tests = Path("tests/plugins")
    names, rest = (
        ([arguments[0]], arguments[1:]) if arguments and arguments[0] != "--all" else (plugin_names(), arguments[1:])
    )
    failed = []
    for name in names:
        print(f"plugin '{name}' alone", flush=True)
        try:
            if run_alone(name, tests, rest) != 0:
                failed.append(name)
        except RecipeError as error:
            print(error, file=sys.stderr)
            failed.append(name)
    if failed:
        print(f"failed alone: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
