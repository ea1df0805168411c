"""How plugins declare typed options: attrs classes whose fields carry their documentation.

A component's options are a frozen attrs class. ``option`` is ``attrs.field`` with what a recipe needs to know of a
field; ``Use`` marks a field that a recipe fills with ``use: name``, ``StageRef`` one that names another stage::

    @frozen(kw_only=True)
    class SftOptions:
        from_: StageRef = option(needs="hf-model", doc="the stage whose model is trained")
        optimizer: Use[Optimizer] = option(doc="the optimizer")
        epochs: float = option(default=1.0, more_than=0, doc="passes over the data")

A trailing underscore is dropped in YAML (``from_`` is written ``from``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import attrs
from attrs import frozen

from smolrecipe.components import Component, ModelComponent
from smolrecipe.model import HfConfig

C_co = TypeVar("C_co", bound=Component, covariant=True)


def option(
    *,
    doc: str,
    default: Any = attrs.NOTHING,
    factory: Any = None,
    source: str = "",
    identity: bool = True,
    ordered: bool = True,
    needs: str | tuple[str, ...] = "",
    at_least: float | None = None,
    more_than: float | None = None,
    at_most: float | None = None,
) -> Any:
    """A field of an options class.

    Args:
        doc: what the option does, with its unit.
        default: the value where a recipe gives none; without it (and without ``factory``) the option is required.
        factory: a callable without arguments that makes the default.
        source: the paper, equation or configuration that the default comes from.
        identity: whether the value changes what a stage computes. ``False`` keeps it out of the stage's digest:
            paths, log levels, how many devices share the work.
        ordered: of an option that maps names to something: whether the order of its entries changes what a stage
            computes, as that of sources whose rows are joined does. ``False`` keeps it out of the stage's digest.
        needs: for a ``StageRef``: what the named stage must produce, for example ``"hf-model"``; one of several
            where it is a tuple.
        at_least, more_than, at_most: the bounds of a number.
    """
    metadata = {
        "doc": doc,
        "source": source,
        "identity": identity,
        "ordered": ordered,
        "needs": needs,
        "at_least": at_least,
        "more_than": more_than,
        "at_most": at_most,
    }
    if factory is not None:
        return attrs.field(factory=factory, metadata=metadata)
    return attrs.field(default=default, metadata=metadata)


@frozen
class Use(Generic[C_co]):
    """A component chosen in a recipe: what ``use:`` names, with its options structured."""

    component: C_co
    options: Any

    @property
    def name(self) -> str:
        """What the recipe wrote after ``use:``."""
        return self.component.name


@frozen
class StageRef:
    """The name of another stage of the recipe, whose artifact this stage consumes.

    ``checkpoint`` picks one of several checkpoints that the stage published, in YAML ``from: apo@0.5``. A recipe may
    also write a folder (``./base``) or a name on the Hub (``org/name``, ``org/name@revision``): then a stage that
    brings that model in is added to it, and named here.
    """

    stage: str
    checkpoint: str = ""
    root: Path | None = attrs.field(default=None, eq=False, repr=False)
    """The folder of the stage's artifact; known in the processes of a stage that runs or is verified, and only there.
    So components that are given no context, sources and filters among them, find what the stage they name published.
    """

    def __str__(self) -> str:
        return f"{self.stage}@{self.checkpoint}" if self.checkpoint else self.stage

    @classmethod
    def parse(cls, text: str) -> StageRef:
        """The reference that a recipe writes as ``stage`` or ``stage@checkpoint``."""
        stage, _, checkpoint = text.partition("@")
        return cls(stage, checkpoint)


@frozen
class Model:
    """The model of a recipe: named model components in the order in which they edit the draft.

    A recipe's ``model:`` is the default of every stage option of this type; what a stage writes under ``model:``
    is merged over it, component by component.
    """

    components: Mapping[str, Use[ModelComponent]]

    def to_hf(self) -> HfConfig:
        """What the components write into a Hugging Face ``config.json``, in the recipe's order.

        Components without a counterpart there are left out.
        """
        config: HfConfig = {}
        for use in self.components.values():
            if use.component.to_hf is not None:
                use.component.to_hf(config, use.options)
        return config


def yaml_key(field_name: str) -> str:
    """The key of an options field in YAML: ``from_`` is written ``from``."""
    return field_name.rstrip("_")


def walk(
    value: Any, path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], Any, Mapping[str, Any]]]:
    """Yield (path, value, field metadata) of a structured value and of all that lies in it, parents first.

    Paths are written as in YAML: a ``Use`` and a ``Model`` add no level of their own.
    """
    yield from _walk(value, path, {})


def _walk(value: Any, path: tuple[str | int, ...], metadata: Mapping[str, Any]) -> Iterator[Any]:
    yield path, value, metadata
    if isinstance(value, Use):
        yield from _walk_fields(value.options, path)
    elif isinstance(value, Model):
        for name, use in value.components.items():
            yield from _walk(use, (*path, name), metadata)
    elif isinstance(value, StageRef):
        return
    elif attrs.has(type(value)):
        yield from _walk_fields(value, path)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _walk(item, (*path, key), metadata)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _walk(item, (*path, index), metadata)


def _walk_fields(options: Any, path: tuple[str | int, ...]) -> Iterator[Any]:
    for field in attrs.fields(type(options)):
        yield from _walk(getattr(options, field.name), (*path, yaml_key(field.name)), field.metadata)
