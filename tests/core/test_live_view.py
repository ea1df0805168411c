"""The live line of a run, as a terminal shows it: all that is asked for on 80 columns, a bar where there is room."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from smolrecipe.cli.live_view import LiveView
from smolrecipe.cli.session import Session
from smolrecipe.planning.plan import Plan

Write = Callable[..., Path]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def plan(toy_plugin: None, write_recipe: Write) -> Plan:
    text = "name: toy\nlauncher: {use: direct}\nstages:\n  long-context-32k: {use: count, to: 20000}\n"
    return Session(("toy",)).plan(str(write_recipe(text)), [])


def line(plan: Plan, width: int, monkeypatch: pytest.MonkeyPatch, *, steps: int = 20000, **numbers: float) -> str:
    """What is shown after some steps, a second each."""
    monkeypatch.setenv("COLUMNS", str(width))
    view = LiveView(plan)
    view.started(plan.stages[0], False, None)
    for step in range(101, 105):
        view.event(plan.stages[0], {"step": step, "steps": steps, "time": float(step), "lr": 1e-4, **numbers})
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(view._progress.get_renderable())
    return console.export_text().rstrip()


TOLD = {"loss": 3.21412, "tokens_per_second": 123456.7, "memory_gib": 12.345}


def test_80_columns_hold_all_of_it(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = line(plan, 80, monkeypatch, **TOLD)
    assert shown.split("  ") == [
        "long-context-32k", " 104/20000 5:31:36 left loss 3.214", "123k tok/s", "12.3 GiB",
    ]  # fmt: skip
    assert "GPU 35.2 GiB" in line(plan, 80, monkeypatch, **TOLD, gpu_memory_gib=35.2)


def test_a_wide_terminal_has_a_bar_and_the_time_so_far(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = line(plan, 120, monkeypatch, steps=150, **TOLD)
    assert "\N{BOX DRAWINGS HEAVY HORIZONTAL}" * 10 in shown and "0:00:0" in shown and shown.endswith("12.3 GiB")


@pytest.mark.parametrize(("speed", "words"), [(87.25, "87.2 tok/s"), (1234, "1.23k tok/s"), (4.5e6, "4.5M tok/s")])
def test_speeds_are_short(plan: Plan, monkeypatch: pytest.MonkeyPatch, speed: float, words: str) -> None:
    assert line(plan, 80, monkeypatch, tokens_per_second=speed).endswith(words)


def test_a_stage_without_numbers_tells_its_steps(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    assert line(plan, 80, monkeypatch).split() == ["long-context-32k", "104/20000", "5:31:36", "left"]
