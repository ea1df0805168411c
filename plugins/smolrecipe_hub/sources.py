"""The data in a stage's options: every source that it names, what it is, and whose licence it has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from attrs import frozen

from smolrecipe_hub.facts import mapping, number
from smolrecipe_hub.lineage import Lineage, Published
from smolrecipe_hub.markdown import code, is_hub_name, text

NOT_STATED = "not stated by the recipe"

_NOT_DATA = {"model", "components", "optimizer", "schedule", "loss", "teacher", "rejected", "filters"}
"""Options whose components are no data."""

_OF_THE_HUB = ("config", "split", "revision", "data_dir", "fraction")
_ON_ITS_OWN = ("use", "license", "paths", "id", "columns", "streaming", "yields")


@frozen(kw_only=True)
class Source:
    """A data source of one stage."""

    stage: str
    name: str
    role: str
    """The option that names it: ``sources``, ``data``, ``held_out``, ..."""
    options: Mapping[str, Any]
    shares: Mapping[str, float]
    """Stage -> the share of its samples that came from this source, where a mixture says so."""

    @property
    def licence(self) -> str:
        """What the recipe says that its licence is, nothing where it says none."""
        stated = self.options.get("license")
        return stated.strip() if isinstance(stated, str) else ""

    @property
    def dataset(self) -> str:
        """The data set on the Hub that it is, nothing where it is none."""
        name = self.options.get("id")
        return name if self.options.get("use") == "hf_dataset" and isinstance(name, str) and is_hub_name(name) else ""

    def what(self) -> str:
        """What it is, in Markdown; of files of the machine that trained it their last names alone."""
        options = self.options
        if "paths" in options and isinstance(options["paths"], list):
            names = [PurePosixPath(str(path)).name for path in options["paths"]]
            return f"files: {text(', '.join(names))}"
        if self.dataset:
            details = [f"{key} {text(options[key])}" for key in _OF_THE_HUB if options.get(key) not in (None, 1, 1.0)]
            link = f"[{text(self.dataset)}](https://huggingface.co/datasets/{self.dataset})"
            return ", ".join([link, *details])
        if isinstance(options.get("id"), str):
            return "a folder of the machine that it was made on"
        given = [
            f"{text(key)} {text(value)}"
            for key, value in options.items()
            if key not in _ON_ITS_OWN and isinstance(value, (str, int, float)) and not isinstance(value, bool)
        ]
        return f"{code(options.get('use'))}" + (f" ({', '.join(given)})" if given else "")


def sources_of(lineage: Lineage, known: frozenset[str]) -> list[Source]:
    """Every source of every stage behind a model, in the order of the stages.

    Args:
        lineage: the model's.
        known: names of sources that the installed plugins offer; of others the place in the options tells.
    """
    found = []
    for artifact in lineage.stages:
        for role, name, options in _find(artifact.options, (), known):
            found.append(
                Source(
                    stage=artifact.stage, name=name, role=role, options=options, shares=_shares(lineage, artifact, name)
                )
            )
    return found


def _find(value: Any, path: tuple[str, ...], known: frozenset[str]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    if path and path[-1] in _NOT_DATA:
        return
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        inside = (*path, str(key))
        if isinstance(item, dict) and isinstance(item.get("use"), str):
            in_a_mapping = isinstance(value, dict) and "use" not in value and bool(path)
            if item["use"] in known or in_a_mapping:
                yield (path[-1] if path else str(key)), str(key), item
                continue
        yield from _find(item, inside, known)


def _shares(lineage: Lineage, artifact: Published, name: str) -> dict[str, float]:
    """The share of each later stage's samples that its mixture takes from this source of ``artifact``."""
    shares = {}
    for later in lineage.stages:
        data = mapping(later.options.get("data"))
        named = data.get("from")
        weights = {key: number(weight) or 0.0 for key, weight in mapping(data.get("weights")).items()}
        total = sum(weights.values())
        if isinstance(named, list) and artifact.stage in named and weights.get(name) and total > 0:
            shares[later.stage] = weights[name] / total
    return shares
