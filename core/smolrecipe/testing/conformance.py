"""The checks of an installed plugin as a pytest test."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from smolrecipe.components import KINDS
from smolrecipe.testing.contract import Check, broken, checks_of
from smolrecipe_registry.discovery import load_registry


def plugin_checks(plugin: str) -> list[Check]:
    """Every check of an installed plugin: of its package, then of each component that it offers."""
    registry = load_registry((plugin,))
    found = registry.plugins[plugin]
    if found.error:
        return [Check(name="it can be loaded", run=lambda: broken(f"plugin '{plugin}' is set aside: {found.error}"))]
    checks = list(importlib.import_module("smolrecipe.testing.package").checks(plugin))
    for component, _ in registry.catalog:
        label = f"{KINDS[type(component)]} {component.name}"
        checks += [
            Check(name=f"{label}: {check.name}", run=check.run) for check in checks_of(component, registry.catalog)
        ]
    return checks


def conformance(plugin: str) -> Callable[[Check], None]:
    """A test function that runs every check of the plugin, each as a test of its own."""
    import pytest

    checks = plugin_checks(plugin)

    @pytest.mark.parametrize("check", checks, ids=[check.name for check in checks])
    def test(check: Check) -> None:
        check.run()

    return test
