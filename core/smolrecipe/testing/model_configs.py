"""What a model component must hold in Hugging Face's ``config.json``: there, always the same, and back."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterator
from functools import partial
from typing import Any

from smolrecipe.components import ModelComponent
from smolrecipe.model import HfConfig
from smolrecipe.testing.attempts import after, make, not_json, options_kept, reporting, scramble
from smolrecipe.testing.contract import Check, broken
from smolrecipe.testing.titan import use_cpu_without_gpu

WRITES = "it writes JSON into config.json"


def checks(component: ModelComponent, options: Any) -> Iterator[Check]:
    """The checks of ``to_hf`` and ``from_hf``, as far as the component has them: none is a declared absence."""
    if component.to_hf is not None:
        yield Check(name=WRITES, run=partial(make, _check_writes, component, options))
        yield Check(name="it writes the same every time", run=partial(_check_same, component, options))
    if component.from_hf is not None:
        yield Check(name="it reads back what it wrote", run=partial(_check_back, component, options))


def _start(component: ModelComponent, options: Any) -> HfConfig:
    """The config that the component finds: empty, if it makes the decoder."""
    models = importlib.import_module("smolrecipe.testing.models")
    if models.makes_decoder(component, options):
        return {}
    use_cpu_without_gpu()
    config: HfConfig = importlib.import_module("smolrecipe.testing.decoders").plain_config()
    return config


def _written(component: ModelComponent, options: Any, config: HfConfig) -> HfConfig:
    what = f"to_hf of model component '{component.name}'"
    assert component.to_hf is not None
    to_hf = component.to_hf
    result = options_kept(what, options, lambda: to_hf(config, options))
    if result is not None:
        broken(f"{what} returns {type(result).__name__}: edit the config in place")
    return config


def _check_writes(component: ModelComponent, options: Any) -> None:
    config = _written(component, options, _start(component, options))
    for key, value in config.items():
        if reason := not_json({key: value}):
            broken(
                f"to_hf of model component '{component.name}' writes {key!r}: {value!r}, which JSON cannot hold "
                f"({reason})"
            )


def _check_same(component: ModelComponent, options: Any) -> None:
    after(WRITES, _check_writes, component, options)
    first = _written(component, options, _start(component, options))
    kept = copy.deepcopy(first)
    scramble(first)
    second = _written(component, options, _start(component, options))
    if kept != second:
        broken(
            f"to_hf of model component '{component.name}' writes another config the second time: {_first(kept, second)}"
            ". It may depend on the config and the options alone, and must hand out no list or dict of its own"
        )


def _check_back(component: ModelComponent, options: Any) -> None:
    what = f"from_hf of model component '{component.name}'"
    if component.to_hf is None:
        broken(f"{what} reads what no to_hf writes: give both, or neither")
    assert component.from_hf is not None
    after(WRITES, _check_writes, component, options)
    config = _written(component, options, _start(component, options))
    read_from = copy.deepcopy(config)
    with reporting(f"{what}, on the config that to_hf writes,"):
        found = component.from_hf(read_from)
    if read_from != config:
        broken(f"{what} changes the config: it may only read it")
    if not isinstance(found, component.options):
        broken(f"{what} returns {found!r} for the config that to_hf writes: return {component.options.__name__}")
    again = _written(component, found, _start(component, options))
    if again != config:
        broken(
            f"{what} does not give back the options that to_hf wrote: with those it read ({found!r}), to_hf writes "
            f"another config: {_first(config, again)}"
        )
    with reporting(f"{what}, on a config.json that says nothing,"):
        nothing = component.from_hf({})
    if nothing is not None:
        broken(
            f"{what} finds {nothing!r} in a config.json that says nothing: return None for a model that is without this"
            " component, and look at 'model_type' before taking a default"
        )


def _first(one: HfConfig, other: HfConfig) -> str:
    missing = object()
    key = next(key for key in {**one, **other} if one.get(key, missing) != other.get(key, missing))
    return f"{key!r} is {one.get(key, 'not there')!r} and then {other.get(key, 'not there')!r}"
