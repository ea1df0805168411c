"""The kit's checks of a package: a good one passes, and each damage is reported by the one check that it is for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from smolrecipe.testing import package, probe
from smolrecipe.testing.contract import ContractError
from smolrecipe.testing.package import clashes

Plant = Callable[..., Path]

INIT = """
from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

import smolrecipe
from smolrecipe import Schedule, option

if TYPE_CHECKING:
    import pandas


@frozen(kw_only=True)
class Options:
    floor: float = option(default=0.0, at_least=0.0, doc="the smallest factor")


def factor(options, step, steps):
    from smolrecipe_planted.curve import fall

    return fall(options.floor, step, steps)


@smolrecipe.hookimpl
def smolrecipe_schedules():
    yield Schedule(name="planted", summary="a line", source="none", options=Options, factor=factor)
"""
CURVE = "import math\n\n\ndef fall(floor, step, steps):\n    return max(floor, 1 - math.fabs(step / steps))\n"
FILES = {"__init__.py": INIT, "curve.py": CURVE}
NOTHING = ("no such text", "")


def reports(plugin: str) -> dict[str, str]:
    """The checks of the package that report something, with what they say."""
    found = {}
    for check in package.checks(plugin):
        try:
            check.run()
        except ContractError as error:
            found[check.name] = str(error)
    return found


def test_a_good_package_passes(plant: Plant) -> None:
    plant("smolrecipe_planted", FILES, plugin="planted")
    assert reports("planted") == {}


@pytest.mark.parametrize(
    ("init", "curve", "check", "sentence"),
    [
        (("@smolrecipe.hookimpl\n", ""), NOTHING, "its hooks exist", "defines smolrecipe_schedules and does not offer"),
        (("def smolrecipe_schedules", "def smolrecipe_schedulers"), NOTHING, "its hooks exist", "did you mean"),
        (("@smolrecipe.hookimpl\ndef smolrecipe_schedules", "def offer"), NOTHING, "its hooks exist", "no hook"),
        (("import smolrecipe\n", "import smolrecipe, numpy\n"), NOTHING, "looking at it imports no engine", "numpy"),
        (
            ('source="none"', 'source="none", check=lambda options: __import__("numpy") and ()'),
            NOTHING,
            "looking at it imports no engine",
            "'check' of schedule 'planted' imports numpy",
        ),
        (
            ("import smolrecipe\n", "import smolrecipe, asyncio, unittest.mock, xml.dom.minidom, http.server\n"),
            NOTHING,
            "importing it costs little",
            "modules that the core does not",
        ),
        (NOTHING, ("import math", "import math, smolrecipe_apo"), "it imports no other plugin", "imports plugin 'apo'"),
        (
            NOTHING,
            ("import math", "import importlib, math\n\napo = lambda: importlib.import_module('smolrecipe_apo.losses')"),
            "it imports no other plugin",
            "smolrecipe_apo.losses (curve.py, line 3)",
        ),
        (
            NOTHING,
            ("    return", "    import scipy.special\n\n    return"),
            "it declares what it imports",
            "scipy.special (curve.py, line 5) of scipy",
        ),
        (NOTHING, ("import math", "import math\nimport not_there"), "it declares what it imports", "not_there"),
        (("def factor", "curve = 1\n\n\ndef factor"), NOTHING, "no module hides something of its package", "curve"),
    ],
)
def test_each_damage_is_reported_by_its_check(
    plant: Plant, init: tuple[str, str], curve: tuple[str, str], check: str, sentence: str
) -> None:
    files = {"__init__.py": INIT.replace(*init), "curve.py": CURVE.replace(*curve)}
    assert files != FILES
    plant("smolrecipe_planted", files, plugin="planted", requires=["smolrecipe", "numpy"])
    found = reports("planted")
    assert list(found) == [check]
    assert sentence in found[check]


def test_a_distribution_that_does_not_require_smolrecipe(plant: Plant) -> None:
    plant("smolrecipe_planted", FILES, plugin="planted", requires=[])
    assert list(reports("planted")) == ["it declares that it needs smolrecipe"]


@pytest.mark.parametrize("requires", [["scipy"], ["scipy; extra == 'maths'"], ["helper[maths]"], ["Sci-Py.Helpers"]])
def test_what_is_declared_may_be_imported(plant: Plant, requires: list[str]) -> None:
    """By name, in an extra, by the extra of a requirement; the last one does not bring scipy."""
    plant("helper", {"__init__.py": ""}, requires=["scipy; extra == 'maths'"], extras=["maths"])
    curve = CURVE.replace("import math", "import math\nimport scipy")
    plant(
        "smolrecipe_planted",
        {**FILES, "curve.py": curve},
        plugin="planted",
        requires=["smolrecipe", *requires],
        extras=["maths"],
    )
    assert list(reports("planted")) == (["it declares what it imports"] if requires == ["Sci-Py.Helpers"] else [])


def test_what_a_component_requires_may_be_imported(plant: Plant) -> None:
    files = {
        "__init__.py": INIT.replace('source="none"', 'source="none", requires=("scipy",)'),
        "curve.py": CURVE.replace("import math", "import math\nimport scipy"),
    }
    plant("smolrecipe_planted", files, plugin="planted")
    assert reports("planted") == {}


def test_a_plugin_that_ends_the_interpreter_is_reported_as_such(plant: Plant) -> None:
    plant("smolrecipe_planted", {"__init__.py": "import os\n\nos._exit(3)\n"}, plugin="planted")
    with pytest.raises(ContractError, match="looking at plugin 'planted' in a fresh interpreter fails"):
        probe.cost_of("planted")


def test_clashes_know_functions_classes_values_and_imports(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").write_text(
        "from elsewhere import a, x as b\nfrom . import ok\ndef c(): pass\nclass d: pass\ne = f = 1\ng: int = 2\n"
    )
    for name in "abcdefgh":
        (tmp_path / f"{name}.py").write_text("")
    (tmp_path / "ok.py").write_text("")
    assert clashes(tmp_path) == list("abcdefg")
