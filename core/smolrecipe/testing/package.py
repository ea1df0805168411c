"""What an installed plugin's package must hold: it is light, it stands alone, and it declares what it imports."""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from attrs import frozen

from smolrecipe import hookspecs
from smolrecipe.errors import near_miss
from smolrecipe.hookspecs import PROJECT
from smolrecipe.provenance.packages import CORE, declared, normal_name
from smolrecipe.testing import examples, probe
from smolrecipe.testing.contract import Check, broken
from smolrecipe_registry.discovery import distribution_of, load_registry, package_of, plugin_entries, source_of
from smolrecipe_registry.requirements import owners

MOST_MODULES = 60
"""How many modules importing a plugin may add to those of the core: every command pays for every plugin."""

_OWN = frozenset({"smolrecipe", "smolrecipe_registry"})


def checks(plugin: str) -> Iterator[Check]:
    """The checks of the package of an installed plugin, and of the recipes in its folder ``examples``."""
    cost = functools.cache(partial(probe.cost_of, plugin))
    yield Check(name="its hooks exist", run=partial(_check_hooks, plugin))
    yield Check(name="looking at it imports no engine", run=partial(_check_engines, plugin, cost))
    yield Check(name="importing it costs little", run=partial(_check_modules, plugin, cost))
    yield Check(name="it imports no other plugin", run=partial(_check_other_plugins, plugin))
    yield Check(name="it declares that it needs smolrecipe", run=partial(_check_needs_core, plugin))
    yield Check(name="it declares what it imports", run=partial(_check_declared, plugin))
    yield Check(name="no module hides something of its package", run=partial(_check_clashes, plugin))
    yield from examples.checks(plugin)


@frozen
class Import:
    """An import in a source file, wherever in it; what only a type checker sees is none."""

    file: Path
    line: int
    module: str

    @property
    def top(self) -> str:
        """The top-level module."""
        return self.module.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.module} ({self.file.name}, line {self.line})"


def files_of(plugin: str) -> list[Path]:
    """The source files of an installed plugin, without tests that lie in its package; it is not imported."""
    root = source_of(plugin_entries()[plugin])
    if root is None or root.is_file():
        return [root] if root is not None else []
    return [file for file in sorted(root.rglob("*.py")) if "tests" not in file.relative_to(root).parts]


def imports_in(file: Path) -> Iterator[Import]:
    """Every absolute import in a source file, in functions too, and ``import_module`` of a name in quotes."""
    for node in _nodes(ast.parse(file.read_text(encoding="utf-8"), filename=str(file))):
        if isinstance(node, ast.Import):
            yield from (Import(file, node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield Import(file, node.lineno, node.module or "")
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("import_module", "__import__") and not str(node.args[0].value).startswith("."):
                yield Import(file, node.lineno, str(node.args[0].value))


def clashes(package: Path) -> list[str]:
    """Modules of a package that bear the name of something in its ``__init__.py``, which importing them would replace.

    After ``import smolrecipe_x.run`` the function ``run`` of ``smolrecipe_x`` is that module.
    """
    named = set()
    for node in ast.parse((package / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            named.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            named.update(target.id for target in targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.ImportFrom) and node.module not in (None, package.name):
            named.update(alias.asname or alias.name for alias in node.names)
    modules = {path.stem for path in package.glob("*.py")} | {path.parent.name for path in package.glob("*/*.py")}
    return sorted(named & modules)


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes of a tree but those under ``if TYPE_CHECKING:``."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).rpartition(".")[2] == "TYPE_CHECKING":
            for alternative in child.orelse:
                yield from _nodes(alternative)
        else:
            yield from _nodes(child)


def _imports(plugin: str) -> Iterator[Import]:
    for file in files_of(plugin):
        yield from imports_in(file)


def _check_hooks(plugin: str) -> None:
    target = plugin_entries()[plugin].load()
    known = [name for name, value in vars(hookspecs).items() if hasattr(value, f"{PROJECT}_spec")]
    implemented = []
    for name in dir(target):
        value: Any = getattr(target, name, None)
        marked = hasattr(value, f"{PROJECT}_impl")
        if marked and name in known:
            implemented.append(name)
        elif marked or (name.startswith(f"{PROJECT}_") and callable(value)):
            if name in known:
                broken(f"plugin '{plugin}' defines {name} and does not offer it: write @smolrecipe.hookimpl over it")
            broken(f"plugin '{plugin}' implements the hook '{name}', which does not exist{near_miss(name, known)}")
    if not implemented:
        broken(f"plugin '{plugin}' implements no hook: there are {', '.join(known)}")


def _check_engines(plugin: str, cost: Callable[[], probe.Cost]) -> None:
    if found := cost().engines:
        what = "; ".join(f"{cause} imports {', '.join(engines)}" for cause, engines in found.items())
        broken(
            f"plugin '{plugin}' is asked by every command, and {what}: import engines in a module beside the package's "
            "__init__, and that module inside the functions that run a stage"
        )


def _check_modules(plugin: str, cost: Callable[[], probe.Cost]) -> None:
    modules = cost().modules
    if modules > MOST_MODULES and probe.IMPORTING not in cost().engines:  # engines are another check's to report
        broken(
            f"importing plugin '{plugin}' imports {modules} modules that the core does not, and {MOST_MODULES} are "
            "meant to do: every command waits for them, so import what is heavy inside the functions that need it"
        )


def _check_other_plugins(plugin: str) -> None:
    entries = plugin_entries()
    own = package_of(entries[plugin])
    others = {package_of(entry): name for name, entry in entries.items() if package_of(entry) != own}
    if found := [imported for imported in _imports(plugin) if imported.top in others]:
        broken(
            f"plugin '{plugin}' imports plugin '{others[found[0].top]}': {', '.join(map(str, found))}; plugins share "
            "what the core's contract has, so that each works where the others are not installed"
        )


def _check_needs_core(plugin: str) -> None:
    distribution = distribution_of(plugin_entries()[plugin])
    needs = {normal_name(requirement.name) for requirement in declared(distribution, [])}
    if normal_name(distribution) != CORE and CORE not in needs:
        broken(
            f"{distribution}, the distribution of plugin '{plugin}', does not require {CORE}: add it to "
            "'dependencies' in its pyproject.toml"
        )


def _check_declared(plugin: str) -> None:
    distribution = distribution_of(plugin_entries()[plugin])
    others = {package_of(entry) for entry in plugin_entries().values()}  # the check of other plugins is about these
    required = {module for component, _ in load_registry((plugin,)).catalog for module in component.requires}
    known = set(sys.stdlib_module_names) | _OWN | others | required | _siblings(plugin)
    allowed = _allowed(distribution)
    undeclared: dict[str, Import] = {}
    for imported in _imports(plugin):
        if imported.top not in known and not (owners(imported.top) | {normal_name(imported.top)}) & allowed:
            undeclared.setdefault(imported.top, imported)
    if undeclared:
        what = ", ".join(f"{first} of {' or '.join(owners(top)) or top}" for top, first in undeclared.items())
        broken(
            f"plugin '{plugin}' imports what {distribution} does not declare: {what}; add each to 'dependencies' in "
            "its pyproject.toml, or to an extra, even where something else happens to bring it"
        )


def _allowed(distribution: str) -> set[str]:
    """What the plugin's distribution declares by name, extras that it asks of others included, and the core's own."""
    requirements = [*declared(distribution), *declared(CORE, [])]
    for requirement in [requirement for requirement in requirements if requirement.extras]:
        plain = set(map(str, declared(requirement.name, [])))
        requirements += [inner for inner in declared(requirement.name, requirement.extras) if str(inner) not in plain]
    return {normal_name(distribution), *(normal_name(requirement.name) for requirement in requirements)}


def _siblings(plugin: str) -> set[str]:
    """Modules that lie beside the plugin's in a checkout; in an environment, all packages lie beside each other."""
    source = source_of(plugin_entries()[plugin])
    if source is None or source.resolve().is_relative_to(Path(sys.prefix).resolve()):
        return set()
    folder = source.parent
    return {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}


def _check_clashes(plugin: str) -> None:
    package = source_of(plugin_entries()[plugin])
    if package is not None and package.is_dir() and (found := clashes(package)):
        broken(
            f"the modules {', '.join(found)} of plugin '{plugin}' bear names that its __init__ gives to something "
            "else: importing the module replaces that; rename the modules"
        )
