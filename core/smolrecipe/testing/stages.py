"""What a stage kind must hold before anything runs: its promises, its devices, models from outside."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from smolrecipe.components import Devices, StageKind
from smolrecipe.testing.contract import Check, broken

_PROMISE = re.compile(r"[a-z][a-z0-9_-]*(@[A-Za-z0-9._-]+)?")
"""What ``produces`` may name: ``hf-model``, or ``hf-model@0.5`` for a checkpoint that is published besides."""


def checks(component: StageKind, options: Any) -> Iterator[Check]:
    """The static checks of a stage kind; what it does when it runs is checked with the plugin's example recipes."""
    yield Check(name="what it produces is named, or a reason given", run=partial(_check_produces, component, options))
    yield Check(name="it says which devices it needs", run=partial(_check_devices, component, options))
    if component.imports is not None:
        yield Check(name="a model from outside becomes its options", run=partial(_check_imports, component))


def _check_produces(component: StageKind, options: Any) -> None:
    produces = component.produces(options)
    if not isinstance(produces, Mapping):
        broken(f"'produces' of stage kind '{component.name}' returns {produces!r}, which is no mapping")
    for name, value in produces.items():
        if not isinstance(name, str) or not _PROMISE.fullmatch(name):
            broken(
                f"stage kind '{component.name}' produces {name!r}: name it as recipes may ask for it, in lower case "
                "('tokens', 'hf-model', 'hf-model@0.5')"
            )
        base = name.partition("@")[0]
        if base not in produces:
            broken(f"stage kind '{component.name}' produces '{name}' and does not say whether it produces '{base}'")
        if value is not True and not (isinstance(value, str) and value.strip()):
            broken(
                f"stage kind '{component.name}' says {value!r} of '{name}': True where it produces it, otherwise the "
                "reason in words, which the refusal of a recipe ends with"
            )
    if component.produces(options) != produces:
        broken(f"stage kind '{component.name}' produces something else each time it is asked with the same options")


def _check_devices(component: StageKind, options: Any) -> None:
    devices = component.devices(options)
    if not isinstance(devices, Devices):
        broken(f"'devices' of stage kind '{component.name}' returns {devices!r}: return smolrecipe.Devices(...)")
    whole = isinstance(devices.processes, int) and not isinstance(devices.processes, bool)
    if not whole or devices.processes < 1 or devices.device not in ("cpu", "cuda"):
        broken(
            f"stage kind '{component.name}' asks for {devices.processes!r} processes on {devices.device!r}: at least "
            "1, on 'cpu' or 'cuda'"
        )
    if devices.memory_gib is not None and not devices.memory_gib > 0:
        broken(f"stage kind '{component.name}' was sized for {devices.memory_gib!r} GiB of memory: give more, or None")


def _check_imports(component: StageKind) -> None:
    assert component.imports is not None
    for reference in ("org/name", "org/name@revision", "/models/base"):
        options = component.imports(reference)
        if not isinstance(options, component.options):
            broken(
                f"'imports' of stage kind '{component.name}' makes {options!r} of '{reference}', which is no "
                f"{component.options.__name__}"
            )
        if said := list(component.check(options)):
            broken(f"stage kind '{component.name}' refuses a model from outside, '{reference}': {'; '.join(said)}")
