"""Explaining a plan grows with its stages, not with their square: counted in operations of the interpreter."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from attrs import frozen

import smolrecipe as sr
from smolrecipe.catalog import Catalog
from smolrecipe.comparing.sides import side_of_plan
from smolrecipe.comparing.why import Explainer
from smolrecipe.planning.make import make_plan
from smolrecipe.recipe.compose import compose
from smolrecipe.recipe.structure import structure
from smolrecipe.running.store import RunStore
from smolrecipe_registry.discovery import load_registry

COMPARING = str(Path(sys.modules[Explainer.__module__].__file__ or "").parent)


@frozen(kw_only=True)
class NothingOptions:
    number: int = sr.option(doc="tells stages apart")


class Nothing:
    """A plugin whose stages do nothing."""

    @sr.hookimpl
    def smolrecipe_stages(self) -> Any:
        yield sr.StageKind(
            name="nothing",
            summary="does nothing",
            options=NothingOptions,
            run=lambda o, c: sr.Artifact(),
            produces=lambda o: {},
        )


def test_four_times_the_stages_take_four_times_the_work(
    toy_plugin: None, write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    registry = load_registry(("toy",), extra=[("nothing", Nothing())])

    def work(stages: int) -> int:
        lines = [f"  stage-{number}: {{use: nothing, number: {number}}}" for number in range(stages)]
        path = write_recipe("\n".join(["name: toy", "launcher: {use: direct}", "stages:", *lines, ""]))
        recipe = structure(compose(path, ()), path, registry.catalog)
        plan = make_plan(recipe, registry.catalog, registry.manager.hook)
        return operations(lambda: explain(plan, registry.catalog, tmp_path / "runs"))

    assert work(200) < 4.5 * work(50)


def explain(plan: Any, catalog: Catalog, runs: Path) -> None:
    """Explain every stage, where each was published with another number."""
    store = RunStore(runs)
    records = {
        store.published(stage): {
            "stage": stage.name,
            "digest": stage.digest[::-1],
            "options": {"use": "nothing", "number": -1},
            "parents": {},
        }
        for stage in plan.stages
    }
    explainer = Explainer(side=side_of_plan(plan, "toy", catalog), store=store, catalog=catalog, records=records)
    for stage in plan.stages:
        why = explainer.explain(stage)
        assert why.nearest is not None and [found.what for found in why.nearest.differences][:1] == ["number"]


def operations(work: Callable[[], None]) -> int:
    """How many operations the interpreter makes in what compares, comprehensions included."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if event == "call":
            if not frame.f_code.co_filename.startswith(COMPARING):
                return None
            frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count
