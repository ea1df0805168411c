"""What looking at a plugin costs, found in a fresh interpreter: ``python -m smolrecipe.testing.probe PLUGIN``.

Prints JSON. Starting a command, validating a recipe and making a plan do all of this for every plugin, so none of it
may import an engine.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from attrs import frozen

from smolrecipe.components import KINDS, Component, Launcher, ModelComponent, Source, StageKind
from smolrecipe.testing.contract import ContractError, broken, example_of
from smolrecipe_registry.discovery import load_registry, package_of, plugin_entries

ENGINES = frozenset(
    {
        *("torch", "transformers", "trl", "mergekit", "torchtitan", "datasets", "datatrove", "lm_eval", "accelerate"),
        *("tokenizers", "numpy", "pandas", "pyarrow", "jax", "tensorflow", "vllm", "deepspeed"),
    }
)
"""Packages that take long to import and that a stage imports in its own process."""

IMPORTING = "importing it"
"""What imports an engine where no function of a component does."""

_LONGEST_SECONDS = 120


@frozen(kw_only=True)
class Cost:
    """What looking at a plugin costs."""

    modules: int
    """Modules that importing it adds to those of the core; its own do not count."""
    engines: dict[str, list[str]]
    """What imported an engine, in words, with the engines."""


def cost_of(plugin: str) -> Cost:
    """Look at an installed plugin in a fresh interpreter.

    Raises:
        ContractError: when the plugin does not even let itself be looked at.
    """
    result = subprocess.run(
        [sys.executable, "-m", "smolrecipe.testing.probe", plugin],
        capture_output=True,
        text=True,
        timeout=_LONGEST_SECONDS,
        check=False,
    )
    if result.returncode != 0:
        broken(f"looking at plugin '{plugin}' in a fresh interpreter fails:\n{result.stderr.strip()}")
    return Cost(**json.loads(result.stdout.splitlines()[-1]))


def main(plugin: str) -> None:
    """Look at the plugin and print what it costs."""
    before = set(sys.modules)
    registry = load_registry((plugin,))
    own = package_of(plugin_entries()[plugin])
    new = {module for module in set(sys.modules) - before if module.partition(".")[0] != own}
    engines = {IMPORTING: sorted(_engines())} if _engines() else {}
    for component, _ in registry.catalog:
        try:
            options = example_of(component, registry.catalog)
        except ContractError:
            continue  # the check of the example says so
        for name, call in _light_calls(component, options):
            known = _engines()
            try:
                call()
            except Exception:
                continue  # what it answers is the business of its kind's checks
            if found := _engines() - known:
                engines[f"'{name}' of {KINDS[type(component)]} '{component.name}'"] = sorted(found)
    print(json.dumps({"modules": len(new), "engines": engines}))


def _engines() -> set[str]:
    return set(ENGINES & set(sys.modules))


def _light_calls(component: Component, options: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What validating, planning and listing ask of a component, by the names of its fields."""
    yield "check", lambda: _all(component.check(options))
    yield "missing", lambda: _all(component.missing(options))
    if isinstance(component, StageKind):
        yield "produces", lambda: component.produces(options)
        yield "devices", lambda: component.devices(options)
    elif isinstance(component, ModelComponent):
        yield "max_positions", lambda: component.max_positions(options)
        to_hf = component.to_hf
        if to_hf is not None:
            yield "to_hf", lambda: to_hf({}, options)
    elif isinstance(component, Source):
        yield "yields", lambda: component.yields(options)
    elif isinstance(component, Launcher):
        yield "capacity", lambda: component.capacity(options)


def _all(sentences: Iterable[str]) -> list[str]:
    return list(sentences)


if __name__ == "__main__":
    main(sys.argv[1])
