"""A new plugin as a package that installs, is found, and passes its own tests: what ``smolrecipe plugin new`` writes.

The files lie in ``templates``: those in ``common`` for every kind, the others by kind. In their paths ``NAME`` stands
for the plugin's name, in their text ``$name``, ``$kind`` and ``$dependency`` for what ``_values`` says.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

from smolrecipe import __version__
from smolrecipe.catalog import Catalog
from smolrecipe.components import (
    KINDS,
    Component,
    Loss,
    ModelComponent,
    Optimizer,
    Packer,
    Schedule,
    Source,
    StageKind,
    Tracker,
)
from smolrecipe.errors import RecipeError, near_miss
from smolrecipe.recipe.read import read_value
from smolrecipe_registry.discovery import GROUP

COMPONENTS: Mapping[str, type[Component]] = {
    "preference-loss": Loss,
    "model-component": ModelComponent,
    "optimizer": Optimizer,
    "schedule": Schedule,
    "stage": StageKind,
    "source": Source,
    "packer": Packer,
    "tracker": Tracker,
}
"""The kinds of plugin that can be written, with what each offers."""

EXTRAS: Mapping[str, str] = {
    "preference-loss": "[trl]",
    "model-component": "[titan]",
    "optimizer": "[titan]",
    "packer": "[data]",
}
"""The extras of smolrecipe that bring what a kind's modules import; the others need none."""

_NAME = re.compile(r"[a-z]([a-z0-9_]*[a-z0-9])?")
_SUFFIX = ".tmpl"


def write_plugin(name: str, kind: str, folder: Path, catalog: Catalog) -> list[Path]:
    """Write a new plugin's package into ``folder``, which is made where it is missing.

    Args:
        name: the plugin's name, which is also that of the component it offers.
        kind: a key of ``COMPONENTS``.
        folder: where the package's ``pyproject.toml`` will lie.
        catalog: what is on offer already: its names are taken.

    Returns:
        The files written, relative to ``folder``.

    Raises:
        RecipeError: for an unknown kind, a name that cannot be used or is taken, and a folder that holds something.
    """
    if kind not in COMPONENTS:
        known = near_miss(kind, COMPONENTS) or f"; there are {', '.join(COMPONENTS)}"
        raise RecipeError([f"no kind of plugin is called '{kind}'{known}"])
    problems = list(_name_problems(name, COMPONENTS[kind], catalog))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        problems.append(f"{folder} exists already and is not an empty folder: choose another with --folder")
    if problems:
        raise RecipeError(problems)
    values = _values(name, kind)
    written = []
    for part in ("common", kind):
        for path, template in _templates(files("smolrecipe_registry") / "templates" / part):
            relative = Path(path.removesuffix(_SUFFIX).replace("NAME", name))
            target = folder / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(Template(template.read_text(encoding="utf-8")).substitute(values), encoding="utf-8")
            written.append(relative)
    return sorted(written)


def _values(name: str, kind: str) -> dict[str, str]:
    major, minor, *_ = __version__.split(".")
    # Until 1.0 a minor version may change the plugin contract.
    below = f"0.{int(minor) + 1}" if major == "0" else str(int(major) + 1)
    return {
        "name": name,
        "kind": KINDS[COMPONENTS[kind]],
        "dependency": f"smolrecipe{EXTRAS.get(kind, '')}>={major}.{minor},<{below}",
    }


def _name_problems(name: str, component: type[Component], catalog: Catalog) -> Iterator[str]:
    if not _NAME.fullmatch(name):
        yield (
            f"'{name}' cannot name a plugin: use lower-case letters, digits and underscores, "
            "a letter first and no underscore last"
        )
        return
    if not isinstance(read_value(name, name).value, str):
        yield f"'{name}' cannot name a plugin: in a recipe 'use: {name}' would not be read as text"
    if name in {entry.name for entry in entry_points(group=GROUP)}:
        yield f"a plugin '{name}' is installed already: choose another name, or uninstall it"
    elif importlib.util.find_spec(f"smolrecipe_{name}") is not None:
        yield f"a package 'smolrecipe_{name}' is installed already: choose another name"
    for offered, provider in catalog:
        if type(offered) is component and offered.name == name and provider.plugin != name:
            yield f"{KINDS[component]} '{name}' is offered by {provider} already: choose another name"


def _templates(folder: Traversable, above: str = "") -> Iterator[tuple[str, Traversable]]:
    """Every template below ``folder`` with its path in it, by name."""
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _templates(entry, f"{above}{entry.name}/")
        elif entry.name.endswith(_SUFFIX):
            yield f"{above}{entry.name}", entry
