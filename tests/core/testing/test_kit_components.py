"""The kit's checks of any component: a good one passes, and each damage is reported by the one check that it is for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve, frozen, mutable

from smolrecipe import Loss, NoOptions, PreferenceLoss, Schedule, StageRef, option
from smolrecipe.catalog import Catalog, Provider
from smolrecipe.components import Component
from smolrecipe.options import Use
from smolrecipe.recipe.nodes import plain
from smolrecipe.recipe.read import read_text
from smolrecipe.testing import components
from smolrecipe.testing.components import as_yaml
from smolrecipe.testing.contract import ContractError
from smolrecipe_registry.discovery import load_registry

Plant = Callable[..., Path]


@frozen(kw_only=True)
class Inner:
    steps: int = option(default=10, at_least=1, doc="how many")


@frozen(kw_only=True)
class Options:
    beta: float = option(at_least=0, doc="a number")
    words: tuple[str, ...] = option(default=("1e-6", "yes", "null"), doc="texts that look like something else")
    inner: Inner = option(factory=Inner, doc="options in options")
    each: dict[str, Inner] = option(factory=dict, doc="options by name")
    from_: StageRef | None = option(default=None, needs="hf-model", doc="a stage")
    schedule: Use[Schedule] | None = option(default=None, doc="a component")
    folder: Path | None = option(default=None, doc="a folder")


def no_loss(batch: Any, options: Any) -> PreferenceLoss:
    return PreferenceLoss(losses=batch.policy_chosen)


GOOD = Loss(
    name="good_loss",
    summary="a loss",
    source="arXiv:0000.00000, equation 1",
    options=Options,
    loss=no_loss,
    example={"beta": 1e-6, "each": {"a": {"steps": 3}}, "schedule": {"use": "line"}, "from": "sft@0.5"},
)
LINE = Schedule(name="line", summary="a line", source="none", factor=lambda options, step, steps: 1.0)


def reports(component: Component, distribution: str = "") -> dict[str, str]:
    """The checks that report something of a component of that distribution, with what they say."""
    catalog = Catalog()
    for offered in (component, LINE):
        catalog.add(offered, Provider(plugin="planted", distribution=distribution))
    found = {}
    for check in components.checks(component, catalog):
        try:
            check.run()
        except ContractError as error:
            found[check.name] = str(error)
    return found


def with_options(**fields: Any) -> type:
    """Frozen options with the fields given as (type, option)."""
    namespace = {"__annotations__": {name: type_ for name, (type_, _) in fields.items()}}
    return frozen(kw_only=True)(type("Odd", (), {**namespace, **{name: field for name, (_, field) in fields.items()}}))


def test_a_good_component_passes() -> None:
    assert reports(GOOD) == {}
    assert reports(LINE) == {}


@frozen(kw_only=True)
class LossOfOnesOwn(Loss):
    pass


@mutable
class Changeable:
    beta: float = option(default=1.0, doc="a number")


@frozen(kw_only=True)
class Around:
    inner: Changeable | None = option(default=None, doc="options in options")


class Plain:
    pass


def slow(options: Any) -> Iterator[str]:
    time.sleep(components.QUICK_SECONDS + 0.05)
    yield from ()


def own(**fields: Any) -> dict[str, Any]:
    return {"options": with_options(**fields), "example": {}}


@pytest.mark.parametrize(
    ("change", "check", "sentence"),
    [
        ({"loss": 3}, "its descriptor is one of the core's", "has 3 as 'loss', which takes a function"),
        ({"name": "good loss"}, "its name is one that recipes can write", "'use: good loss'"),
        ({"name": "1e5"}, "its name is one that recipes can write", "reads it as text"),
        ({"name": "null"}, "its name is one that recipes can write", "reads it as text"),
        ({"summary": "A loss."}, "its summary is one line without a period", "'A loss.'"),
        ({"summary": "a\nloss"}, "its summary is one line without a period", "in one line"),
        ({"summary": " "}, "its summary is one line without a period", "loss 'good_loss'"),
        ({"source": ""}, "its source is named", "loss 'good_loss' names no source"),
        ({"options": Changeable, "example": {}}, "its options are frozen attrs classes", "Changeable, options of"),
        ({"options": Around, "example": {}}, "its options are frozen attrs classes", "Changeable, options of"),
        (own(beta=(float, option(default=1.0, doc=""))), "every option says what it does", "'beta'"),
        (
            own(inner=(list[with_options(deep=(int, option(default=1, doc="")))], option(factory=list, doc="a list"))),
            "every option says what it does",
            "'inner.deep'",
        ),
        (
            own(from_=(StageRef | None, option(default=None, doc="a stage"))),
            "references to stages say what they need",
            "'from' of loss 'good_loss'",
        ),
        (
            own(many=(list[StageRef], option(factory=list, doc="stages", needs=("tokens", "")))),
            "references to stages say what they need",
            "'many' of loss 'good_loss'",
        ),
        ({"example": {}}, "its example is options", "lacks the required key 'beta'"),
        ({"example": {"beta": -1}}, "its example is options", "'beta' must be at least 0, not -1"),
        ({"example": {"beta": 1, "bete": 2}}, "its example is options", "unknown key 'bete'"),
        (own(n=(float, option(default="0.1", doc="a number"))), "its example survives YAML", "must be a number"),
        (own(n=(list[int], option(factory=tuple, doc="numbers"))), "its example survives YAML", "was () and is []"),
        (own(at=(Path, option(default=Path("here"), doc="a path"))), "its example survives YAML", "'at' was"),
        ({"check": lambda options: ["too bold"]}, "its check accepts its example", "refuses its own example: too bold"),
        ({"check": lambda options: [3]}, "its check accepts its example", "yields 3, which is no sentence"),
        ({"check": lambda options: "too bold"}, "its check accepts its example", "returns 'too bold'"),
        ({"check": slow}, "its check accepts its example", "'check' of loss 'good_loss' takes 0."),
        ({"missing": lambda options: [""]}, "it says in sentences what is missing", "yields '', which is no sentence"),
        ({"missing": lambda options: None}, "it says in sentences what is missing", "returns None"),
        ({"missing": slow}, "it says in sentences what is missing", "leave reading data to the stage"),
    ],
)
def test_each_damage_is_reported_by_its_check(change: dict[str, Any], check: str, sentence: str) -> None:
    found = reports(evolve(GOOD, **change))
    assert list(found) == [check]
    assert sentence in found[check]


def test_options_that_are_no_attrs_class_are_reported() -> None:
    found = reports(evolve(GOOD, options=Plain, example={}))
    assert list(found) == ["its options are frozen attrs classes"]
    assert "make them an attrs class" in found["its options are frozen attrs classes"]


def test_a_descriptor_of_ones_own_is_reported() -> None:
    own = LossOfOnesOwn(name="own", summary="own", source="own", loss=no_loss)
    assert "is a LossOfOnesOwn, which the core does not know" in reports(own)["its descriptor is one of the core's"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"requires": ("yaml.nodes",)}, "requires 'yaml.nodes', which is no top-level module"),
        ({"requires": ("numpy",)}, "nothing in the requirements of planted_distribution brings it: add numpy there"),
        ({"requires": ("not_there",)}, "requires the module 'not_there', and nothing in the requirements"),
        ({"requires": ("numpy",), "extra": "maths"}, "requires the module 'numpy', and nothing in the extra 'maths'"),
        ({"requires": ("numpy",), "extra": "math"}, "offers no such extra (it offers: maths, more)"),
        ({"requires": ("numpy",), "extra": "more"}, ""),
        ({"requires": ("yaml", "pluggy")}, ""),  # of pyyaml, and what pytest brings
        ({"requires": ("helper", "helper_of_helper"), "extra": "maths"}, ""),
    ],
)
def test_what_a_component_requires_must_come_with_its_plugin(
    plant: Plant, change: dict[str, Any], sentence: str
) -> None:
    plant("helper", {"__init__.py": ""}, requires=["helper-of.helper"])
    requires = ["pyyaml", "pytest", "helper; extra == 'maths'", "numpy; extra == 'more'"]
    plant("planted_distribution", {"__init__.py": ""}, requires=requires, extras=["maths", "more"])
    found = reports(evolve(GOOD, **change), "planted_distribution")
    assert list(found) == (["what it requires comes with what it declares"] if sentence else [])
    assert sentence in found.get("what it requires comes with what it declares", "")


@pytest.mark.parametrize(
    "value",
    [
        {"a": "1e-6", "b": ["yes", "~", "0x1f", ""], "c": None, "d": True},
        [1e-6, 3.0, 1e30, 7],
        {"long": "word " * 60, "lines": "a\n\n b\t\n", "quotes": "'\"\\", "é": "ü \u2028 🙂"},
    ],
)
def test_yaml_text_is_read_as_it_was(value: Any) -> None:
    again = plain(read_text(as_yaml(value), "r.yaml"))
    assert again == value and repr(again).replace("PlacedText", "") == repr(value)


def test_every_built_in_component_passes() -> None:
    registry = load_registry()
    assert registry.catalog.names(Loss), "no plugin is installed"
    found = []
    for component, _ in registry.catalog:
        for check in components.checks(component, registry.catalog):
            try:
                check.run()
            except ContractError as error:
                found.append(f"{check.name}: {error}")
    assert found == []


def test_no_options_needs_no_example() -> None:
    assert LINE.options is NoOptions and LINE.example == {}
