"""The model that a Hugging Face ``config.json`` describes, in the installed model components."""

from __future__ import annotations

from graphlib import TopologicalSorter
from typing import Any

from smolrecipe.catalog import Catalog
from smolrecipe.components import ModelComponent
from smolrecipe.errors import StageError
from smolrecipe.model import HfConfig
from smolrecipe.options import Model, Use


def read_model(config: HfConfig, catalog: Catalog) -> Model:
    """Ask every model component for the options under which it writes this config.

    Raises:
        StageError: when no component knows the config, or one cannot represent what it says.
    """
    uses: dict[str, Use[ModelComponent]] = {}
    for component, _ in catalog:
        if isinstance(component, ModelComponent) and component.from_hf is not None:
            options = component.from_hf(config)
            if options is not None:
                uses[component.name] = Use(component, options)
    if not uses:
        raise StageError(f"no installed model component knows a config.json of model_type '{config.get('model_type')}'")
    order = TopologicalSorter({name: [*use.component.after] for name, use in uses.items()}).static_order()
    return Model({name: uses[name] for name in order if name in uses})


def unlike(config: HfConfig, model: Model) -> dict[str, tuple[Any, Any]]:
    """Keys that the model's components would write otherwise: key -> (config's, theirs).

    Of a mapping only the keys that they write are compared: configs keep older names of settings beside the new ones.
    """
    written = model.to_hf()
    return {
        key: (config[key], value) for key, value in written.items() if key in config and not _says(config[key], value)
    }


def _says(there: Any, written: Any) -> bool:
    if isinstance(written, dict) and isinstance(there, dict):
        return all(key in there and _says(there[key], value) for key, value in written.items())
    return bool(there == written)
