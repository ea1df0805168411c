"""One plugin alone: its tests and its conformance checks where only the core, the registry and that plugin exist.

``smolrecipe plugins test NAME`` runs both in a fresh interpreter behind a wall (see ``smolrecipe_registry.wall``): no
other plugin can be imported, and no package but those that the plugin's distribution declares, with what these bring
in, and pytest's own.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import IO, TYPE_CHECKING

import smolrecipe
from smolrecipe.errors import RecipeError, near_miss
from smolrecipe_registry.discovery import distribution_of, package_of, plugin_entries, source_of
from smolrecipe_registry.restriction import RESTRICTION
from smolrecipe_registry.wall import raise_wall

if TYPE_CHECKING:
    import pytest

ALONE = "SMOLRECIPE_ALONE"
"""Environment variable with the name of the plugin that is tested alone."""

EACH_PLUGINS_TESTS = Path("tests/plugins")
"""Where a checkout of several plugins keeps the tests of each: ``test_<name>.py`` and ``test_<name>_*.py``."""

OWN_TESTS = Path("tests")
"""Where a plugin's own checkout keeps its tests."""

_KIT = Path(smolrecipe.__file__).parent / "testing"
CONFORMANCE_TESTS = _KIT / "run_conformance.py"
"""The test module with the conformance checks of the plugin in ``SMOLRECIPE_ALONE``."""


def files_of(name: str, tests: Path) -> list[Path]:
    """The test files of a plugin: ``test_<name>.py`` and ``test_<name>_*.py``."""
    longer = [other for other in plugin_names() if other != name and other.startswith(f"{name}_")]
    files = [*tests.glob(f"test_{name}.py"), *tests.glob(f"test_{name}_*.py")]
    return sorted(file for file in files if not any(file.stem.startswith(f"test_{other}") for other in longer))


def plugin_names() -> list[str]:
    """The names of all installed plugins."""
    return list(plugin_entries())


def own_tests(name: str, tests: Path | None = None) -> list[Path]:
    """What pytest is given for a plugin besides its conformance checks.

    Args:
        name: the plugin.
        tests: the folder with its tests. In one with files of the plugin's name, those are meant, in any other all.
            ``None`` looks for the plugin's files in ``tests/plugins``; where there is no such folder, ``tests`` counts
            if the plugin's source lies below the current folder; a plugin that is installed from elsewhere has none.
    """
    if tests is not None:
        return files_of(name, tests) or [tests]
    if EACH_PLUGINS_TESTS.is_dir():
        return files_of(name, EACH_PLUGINS_TESTS)
    here = OWN_TESTS.is_dir() and _lies_below(name, Path.cwd())
    return [OWN_TESTS] if here else []


def run_alone(
    name: str, tests: Path | None = None, arguments: Sequence[str] = (), output: IO[bytes] | None = None
) -> int:
    """Run the tests and the conformance checks of the plugin ``name`` alone and return pytest's exit code.

    Args:
        name: the plugin.
        tests: its tests, as in ``own_tests``.
        arguments: more for pytest.
        output: a file for all that is printed; without one it is shown as it comes.

    Raises:
        RecipeError: when no such plugin is installed, or no pytest.
    """
    refuse_unknown([name])
    with tempfile.TemporaryDirectory(prefix="smolrecipe-alone-") as folder:
        raise_wall(behind_the_wall(name), Path(folder))
        paths = [folder, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {
            **os.environ,
            ALONE: name,
            RESTRICTION: name,
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # plugins of pytest that are not declared would not load
        }
        command = [
            *(sys.executable, "-m", "pytest", "-p", "smolrecipe_registry.isolation"),
            *(part for plugin in _pytest_plugins(name) for part in ("-p", plugin)),
            *map(str, [*own_tests(name, tests), CONFORMANCE_TESTS]),
            *arguments,
        ]
        errors = None if output is None else subprocess.STDOUT
        return subprocess.run(command, env=environment, stdout=output, stderr=errors, check=False).returncode


def run_each(
    names: Sequence[str], tests: Path | None = None, arguments: Sequence[str] = (), jobs: int = 1
) -> list[str]:
    """Run each plugin alone, and return the names of those that failed.

    Args:
        names: the plugins.
        tests: their tests, as in ``own_tests``.
        arguments: more for pytest.
        jobs: how many plugins are tested at a time. With several, what one prints is shown when it has ended, and each
            has its share of the machine's cores for the threads of numeric libraries (``OMP_NUM_THREADS``, unless it
            is set).
    """
    if jobs == 1:
        return [name for name in names if _run_shown(name, tests, arguments) != 0]
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    with ThreadPoolExecutor(jobs) as pool:
        codes = list(pool.map(lambda name: _run_at_once(name, tests, arguments), names))
    return [name for name, code in zip(names, codes, strict=True) if code != 0]


def _run_shown(name: str, tests: Path | None, arguments: Sequence[str]) -> int:
    print(f"plugin '{name}' alone", flush=True)
    return run_alone(name, tests, arguments)


def _run_at_once(name: str, tests: Path | None, arguments: Sequence[str]) -> int:
    with tempfile.TemporaryFile() as output:
        code = run_alone(name, tests, arguments, output)
        output.seek(0)
        print(f"plugin '{name}' alone\n{output.read().decode(errors='replace')}", end="", flush=True)
    return code


def refuse_unknown(names: Iterable[str]) -> None:
    """Refuse names of plugins that are not installed, and a machine without pytest.

    Raises:
        RecipeError: with a sentence for each.
    """
    if importlib.util.find_spec("pytest") is None:
        raise RecipeError(["pytest is not installed: pip install pytest"])
    known = plugin_names()
    if unknown := [name for name in names if name not in known]:
        raise RecipeError(f"no plugin '{name}' is installed{near_miss(name, known)}" for name in unknown)


def behind_the_wall(name: str) -> dict[str, str]:
    """The top-level modules that do not exist for a plugin which is tested alone, each with a sentence that says why.

    ``{module}`` in a sentence stands for what was imported.
    """
    from smolrecipe_registry.requirements import undeclared_modules

    entries = plugin_entries()
    own = package_of(entries[name])
    distribution = distribution_of(entries[name])
    undeclared = {
        module: f"plugin '{name}' is tested alone, and {{module}} is not declared: it comes with {owner}, and nothing "
        f"that {distribution} requires brings that in; add it to the requirements of {distribution}, or to an extra"
        for module, owner in undeclared_modules(distribution).items()
    }
    others = {
        package_of(entry): f"plugin '{name}' is tested alone, and {{module}} belongs to plugin '{other}'"
        for other, entry in entries.items()
    }
    return {module: sentence for module, sentence in {**undeclared, **others}.items() if module != own}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """As a pytest plugin: leave out the checks that the plugin's own tests run already with ``conformance``."""
    checks = [item for item in items if getattr(item, "function", None).__module__ == "smolrecipe.testing.conformance"]
    own = {item.name.partition("[")[2] for item in checks if item.path != CONFORMANCE_TESTS}
    twice = [item for item in checks if item.path == CONFORMANCE_TESTS and item.name.partition("[")[2] in own]
    if twice:
        items[:] = [item for item in items if item not in twice]
        config.hook.pytest_deselected(items=twice)


def _lies_below(name: str, folder: Path) -> bool:
    """Whether the plugin's source lies in the folder, and not in an environment that does; it is not imported."""
    source = source_of(plugin_entries()[name])
    in_environment = source is not None and source.resolve().is_relative_to(Path(sys.prefix).resolve())
    return source is not None and source.resolve().is_relative_to(folder.resolve()) and not in_environment


def _pytest_plugins(name: str) -> list[str]:
    """The kit's fixtures and the plugins of pytest that the plugin's distribution declares."""
    from smolrecipe.provenance.packages import normal_name
    from smolrecipe_registry.requirements import importable_with

    allowed = importable_with(distribution_of(plugin_entries()[name]))

    def is_declared(entry: EntryPoint) -> bool:
        return entry.dist is not None and normal_name(entry.dist.name) in allowed

    kit = f"{smolrecipe.__name__}.testing.pytest_plugin"
    entries = [entry for entry in entry_points(group="pytest11") if entry.value != kit and is_declared(entry)]
    return [kit, *(entry.name for entry in entries)]
