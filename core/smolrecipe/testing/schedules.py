"""What a learning-rate schedule must hold: a factor for every step of any length, a function of the step alone.

Some schedules know the length of a run (cosine), others have steps of their own among their options (warmup-stable-
decay), which nothing relates to it. So nothing is asked of the curve: only that it is there, for lengths shorter and
longer than whatever the example says, up to those of published pretraining.

``python -m smolrecipe.testing.schedules PLUGIN`` looks at a plugin's schedules in a fresh interpreter and prints JSON.
"""

from __future__ import annotations

import functools
import json
import math
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from smolrecipe.components import Schedule
from smolrecipe.testing.contract import Check, ContractError, broken, example_of
from smolrecipe.testing.probe import ENGINES
from smolrecipe_registry.discovery import load_registry, package_of, plugin_entries

LENGTHS = (1, 2, 10, 1000)
"""Lengths of which every step is looked at."""

LONGEST = 4_720_000
"""SmolLM3's pretraining, of which some steps are looked at."""

SAMPLED = tuple(sorted({1, 2, 3, *(LONGEST * part // 17 for part in range(1, 17)), LONGEST - 1, LONGEST}))

QUICK_SECONDS = 0.05
"""How long a factor may take: it is asked for in every step of every process."""

_LONGEST_SECONDS = 120


def checks(component: Schedule, options: Any) -> Iterator[Check]:
    """The checks of a schedule with the options of its example."""
    every: list[tuple[str, Callable[[Schedule, Any], None]]] = [
        ("every step has a factor", _check_defined),
        ("long runs have factors too", _check_long),
        ("some step learns", _check_learns),
        ("a factor depends on its step alone", _check_pure),
        ("a factor comes at once", _check_quick),
    ]
    for name, check in every:
        yield Check(name=name, run=partial(check, component, options))
    if plugin := _plugin_of(component):
        yield Check(name="it needs no engine", run=partial(_check_engines, component, plugin))


def _factor(component: Schedule, options: Any, step: int, steps: int) -> float:
    """The factor of a step.

    Raises:
        ContractError: unless it is a number of at least 0.
    """
    where = f"in step {step} of {steps}"
    try:
        value: Any = component.factor(options, step, steps)
    except Exception as error:
        broken(
            f"schedule '{component.name}' fails {where} with {type(error).__name__}: {error}; every step from 1 to "
            "steps has a factor, however long the run is"
        )
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        broken(f"schedule '{component.name}' gives {value!r} {where}, a {type(value).__name__}: return a float")
    if not (math.isfinite(value) and value >= 0):
        broken(f"schedule '{component.name}' gives {value!r} {where}: a factor is finite and at least 0")
    return value


def _curve(component: Schedule, options: Any, asked: Iterable[int], steps: int) -> dict[int, float]:
    return {step: _factor(component, options, step, steps) for step in asked}


def _check_defined(component: Schedule, options: Any) -> None:
    for steps in LENGTHS:
        _curve(component, options, range(1, steps + 1), steps)


def _check_long(component: Schedule, options: Any) -> None:
    _curve(component, options, SAMPLED, LONGEST)


def _check_learns(component: Schedule, options: Any) -> None:
    """In the shortest runs a warmup may leave nothing, so one of all lengths has to learn."""
    for steps in LENGTHS:
        if any(_tolerant(component, options, step, steps) for step in range(1, steps + 1)):
            return
    if not any(_tolerant(component, options, step, LONGEST) for step in SAMPLED):
        broken(
            f"schedule '{component.name}' gives 0 in every step of runs of {', '.join(map(str, LENGTHS))} and "
            f"{LONGEST} steps: nothing would be learned (is a division rounded down?)"
        )


def _tolerant(component: Schedule, options: Any, step: int, steps: int) -> float:
    """The factor, 1 where it is none, which is for other checks to say."""
    try:
        return _factor(component, options, step, steps)
    except ContractError:
        return 1.0


def _check_pure(component: Schedule, options: Any) -> None:
    """Ask in order, as a run does; from the middle on, as a resumed run does; and in any order, between other runs."""
    steps = 1000
    try:
        whole = _curve(component, options, range(1, steps + 1), steps)
        resumed = _curve(component, options, range(steps // 2, steps + 1), steps)
        shuffled = {}
        for step in random.Random(0).sample(range(1, steps + 1), steps):
            _factor(component, options, 1 + step % 10, 10)
            shuffled[step] = _factor(component, options, step, steps)
    except ContractError:
        return  # for the check of every step to say
    for how, found in (("after resuming in the middle", resumed), ("when steps are asked for in any order", shuffled)):
        for step, value in found.items():
            if value != whole[step]:
                broken(
                    f"schedule '{component.name}' gives {value!r} in step {step} of {steps} {how}, and {whole[step]!r} "
                    "when asked from the first step on: a factor is a function of options, step and steps, and nothing "
                    "is remembered, counted or drawn at random"
                )


def _check_quick(component: Schedule, options: Any) -> None:
    """The best of five, so that a busy machine does not count."""
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        try:
            component.factor(options, LONGEST, LONGEST)
        except Exception:
            return  # for the check of long runs to say
        seconds.append(time.perf_counter() - started)
        if seconds[-1] < QUICK_SECONDS:
            return
    broken(
        f"schedule '{component.name}' takes {min(seconds):.2f} s for step {LONGEST} of {LONGEST}: compute the factor "
        "from the step, without going through those before it"
    )


def _check_engines(component: Schedule, plugin: str) -> None:
    for what, engines in (found := _look(plugin)).items():
        if what in ("", component.name) and engines:
            reason = "asking it for a factor" if what else "importing its plugin"
            broken(
                f"schedule '{component.name}': {reason} imports {', '.join(engines)}; a schedule is arithmetic on two "
                "numbers (math), and needs no engine"
            )
    if component.name not in found:
        broken(f"schedule '{component.name}' is not on offer where plugin '{plugin}' is loaded in a fresh interpreter")


def _plugin_of(component: Schedule) -> str:
    """The installed plugin that the schedule comes from; nothing for one that is defined in a test or a notebook."""
    function: Any = component.factor
    while isinstance(function, functools.partial):
        function = function.func
    modules = {str(getattr(one, "__module__", "")).partition(".")[0] for one in (function, component.options)}
    return next((name for name, entry in plugin_entries().items() if package_of(entry) in modules), "")


@functools.cache
def _look(plugin: str) -> dict[str, list[str]]:
    """The engines that each schedule of the plugin imports, by its name, and under '' those that the plugin does.

    Raises:
        ContractError: when the plugin does not let itself be looked at.
    """
    result = subprocess.run(
        [sys.executable, "-m", "smolrecipe.testing.schedules", plugin],
        capture_output=True,
        text=True,
        timeout=_LONGEST_SECONDS,
        check=False,
    )
    if result.returncode != 0:
        broken(f"asking the schedules of plugin '{plugin}' in a fresh interpreter fails:\n{result.stderr.strip()}")
    found: dict[str, list[str]] = json.loads(result.stdout.splitlines()[-1])
    return found


def main(plugin: str) -> None:
    """Ask each schedule of the plugin for factors and print what that imports."""
    catalog = load_registry((plugin,)).catalog
    known = ENGINES & set(sys.modules)
    found = {"": sorted(known)}
    for component, _ in catalog:
        if not isinstance(component, Schedule):
            continue
        try:
            options = example_of(component, catalog)
            for step in (1, 500, 1000):
                component.factor(options, step, 1000)
        except Exception:
            pass  # for other checks to say; what it has imported until then counts
        found[component.name] = sorted((ENGINES & set(sys.modules)) - known)
        known = ENGINES & set(sys.modules)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
