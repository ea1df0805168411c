"""The checks of schedules: each catches one that breaks it; curves of all kinds pass."""

import itertools
import math
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smolrecipe import NoOptions, Schedule
from smolrecipe.testing import schedules
from smolrecipe.testing.contract import ContractError, example_of
from smolrecipe.testing.schedules import checks
from smolrecipe_registry.discovery import load_registry

Factor = Callable[[Any, int, int], Any]


def schedule_of(factor: Factor) -> Schedule:
    return Schedule(name="tried", summary="a schedule", source="here", factor=factor)


def reports(component: Schedule, options: Any = None) -> dict[str, str]:
    """The checks that fail, in their order, with what they say."""
    found = {}
    for check in checks(component, NoOptions() if options is None else options):
        try:
            check.run()
        except ContractError as error:
            found[check.name] = str(error)
    return found


def built_ins() -> list[tuple[Schedule, Any]]:
    catalog = load_registry().catalog
    return [(component, example_of(component, catalog)) for component, _ in catalog if isinstance(component, Schedule)]


@pytest.mark.parametrize(("component", "options"), built_ins(), ids=lambda value: getattr(value, "name", ""))
def test_built_ins_pass(component: Schedule, options: Any) -> None:
    assert reports(component, options) == {}
    assert "it needs no engine" in [check.name for check in checks(component, options)]


def test_schedules_with_steps_of_their_own_pass_at_any_length() -> None:
    """Those of SmolLM3's pretraining, which are longer than most lengths that are tried."""
    wsd = load_registry().catalog.get(Schedule, "wsd")
    published = wsd.options(warmup_steps=2000, decay_start=4_198_001, decay_steps=522_000)
    assert reports(wsd, published) == {}


@pytest.mark.parametrize(
    "factor",
    [
        lambda options, step, steps: 1,
        lambda options, step, steps: 1 / math.sqrt(step),
        lambda options, step, steps: (1 + math.cos(math.pi * step / steps)) / 2,
        lambda options, step, steps: float(step > 2_000_000),
    ],
)
def test_curves_of_any_shape_pass(factor: Factor) -> None:
    assert reports(schedule_of(factor)) == {}


def stateful() -> Factor:
    done = itertools.count(1)
    return lambda options, step, steps: 1 / next(done)


def product() -> Factor:
    """Multiplies its way from the first step on."""
    last = [1.0]

    def factor(options: Any, step: int, steps: int) -> float:
        last[0] = 1.0 if step == 1 else last[0] * 0.999
        return last[0]

    return factor


def another_length() -> Factor:
    """Notices that it is asked for a run of another length than before."""
    lengths = [0]

    def factor(options: Any, step: int, steps: int) -> float:
        before, lengths[0] = lengths[0], steps
        return 1.0 if before == steps else 0.5

    return factor


def drawn(options: Any, step: int, steps: int) -> float:
    return random.random()


def last_step_missing(options: Any, step: int, steps: int) -> float:
    return [1.0 / count for count in range(1, min(steps, 1000))][min(step, 1000) - 1]


def warmup_of_a_tenth(options: Any, step: int, steps: int) -> float:
    """Divides by 0 in runs of fewer than 10 steps."""
    return min(step / (steps // 10), 1.0)


def rounded_down(options: Any, step: int, steps: int) -> int:
    return (steps - step) // steps


def below_zero(options: Any, step: int, steps: int) -> float:
    return 1 - 2 * step / steps


def root_of_less_than_nothing(options: Any, step: int, steps: int) -> Any:
    """Python gives a complex number, and no error."""
    return (0.5 - step / steps) ** 0.5


def grows_forever(options: Any, step: int, steps: int) -> float:
    """Too large a number for a float after some thousand steps."""
    return 1.001**step / 1.001**steps


def recursive(options: Any, step: int, steps: int) -> float:
    return 1.0 if step <= 900 or step > steps - 3 else 0.999999 * recursive(options, step - 500, steps)


def step_by_step(options: Any, step: int, steps: int) -> float:
    rate = 1.0
    for _ in range(step):
        rate *= 0.999999
    return rate


@pytest.mark.parametrize(
    ("factor", "caught_by", "says"),
    [
        (warmup_of_a_tenth, "every step has a factor", "in step 1 of 1 with ZeroDivisionError"),
        (lambda options, step, steps: math.nan if step == 7 else 1.0, "every step has a factor", "step 7 of 10"),
        (grows_forever, "long runs have factors too", "OverflowError"),
        (recursive, "long runs have factors too", "RecursionError"),
        (rounded_down, "some step learns", "rounded down"),
        (stateful(), "a factor depends on its step alone", "when asked from the first step on"),
        (product(), "a factor depends on its step alone", "after resuming in the middle"),
        (another_length(), "a factor depends on its step alone", "in any order"),
        (drawn, "a factor depends on its step alone", "after resuming in the middle"),
        (step_by_step, "a factor comes at once", f"step {schedules.LONGEST}"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_exactly_one_check_catches(factor: Factor, caught_by: str, says: str) -> None:
    found = reports(schedule_of(factor))
    assert list(found) == [caught_by]
    assert says in found[caught_by] and "'tried'" in found[caught_by]


@pytest.mark.parametrize(
    ("factor", "says"),
    [
        (below_zero, "-1.0 in step 1 of 1"),
        (root_of_less_than_nothing, "a complex"),
        (last_step_missing, "in step 1 of 1 with IndexError"),
        (lambda options, step, steps: None if step == steps else 1.0, "NoneType"),
        (lambda options, step, steps: step < 5, "a bool"),
    ],
)
def test_it_is_caught_in_runs_of_all_lengths(factor: Factor, says: str) -> None:
    found = reports(schedule_of(factor))
    assert list(found) == ["every step has a factor", "long runs have factors too"]
    assert says in found["every step has a factor"]


PLUGIN = """
import smolrecipe

{top}
def one(options, step, steps):
    return 1.0

def other(options, step, steps):
    {inside}
    return 1.0

@smolrecipe.hookimpl
def smolrecipe_schedules():
    for name, factor in (("one", one), ("other", other)):
        yield smolrecipe.Schedule(name=name, summary="a schedule", source="here", factor=factor)
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, dict[str, str]]]:
    """Install a plugin with two schedules for this process and those it starts; return what each is reported for."""

    def install(top: str = "", inside: str = "") -> dict[str, dict[str, str]]:
        (tmp_path / "schedules_of_a_test.py").write_text(PLUGIN.format(top=top, inside=inside or "pass"))
        metadata = tmp_path / "schedules_of_a_test-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: schedules-of-a-test\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text("[smolrecipe]\nschedules_of_a_test = schedules_of_a_test\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        schedules._look.cache_clear()
        catalog = load_registry(("schedules_of_a_test",)).catalog
        return {component.name: reports(component) for component, _ in catalog}

    yield install
    sys.modules.pop("schedules_of_a_test", None)
    schedules._look.cache_clear()


def test_a_plugin_of_plain_arithmetic_passes(installed: Any) -> None:
    assert installed(top="import math") == {"one": {}, "other": {}}


def test_an_engine_is_found_where_a_factor_imports_it(installed: Any) -> None:
    found = installed(inside="import numpy")
    assert found["one"] == {} and list(found["other"]) == ["it needs no engine"]
    assert "'other': asking it for a factor imports numpy" in found["other"]["it needs no engine"]


def test_an_engine_is_found_where_the_plugin_imports_it(installed: Any) -> None:
    for name, found in installed(top="import numpy").items():
        assert list(found) == ["it needs no engine"]
        assert f"'{name}': importing its plugin imports numpy" in found["it needs no engine"]
