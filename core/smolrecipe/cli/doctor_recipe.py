"""The part of ``smolrecipe doctor`` that holds a recipe against the machine, stage by stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from smolrecipe.cli.doctor_findings import Finding
from smolrecipe.planning.plan import Plan, PlannedStage
from smolrecipe.running.machine import lacking
from smolrecipe.running.store import RunStore


def look_at_stages(plan: Plan, store: RunStore, told: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether each stage of a plan could run here, and what it lacks; one that is published needs nothing."""
    for stage in plan.stages:
        if store.is_published(stage):
            yield Finding(subject=stage.name, status="ok", told="published", facts={"published": True})
            continue
        problems = [problem.message for problem in lacking(plan, [stage])]
        if problems:
            yield Finding(subject=stage.name, status="lacks", told="; ".join(problems), facts={"lacking": problems})
            continue
        yield _fits(stage, told)


def _fits(stage: PlannedStage, told: Mapping[str, Any]) -> Finding:
    """A stage that would start; of one on GPUs, whether they have the memory that its layout was sized for."""
    devices = stage.devices
    wanted = devices.memory_gib
    has = min((gpu["memory_gib"] for gpu in told.get("gpus") or []), default=None)
    what = f"{devices.processes} {'GPU' if devices.device == 'cuda' else 'CPU'} process"
    what += "es" if devices.processes > 1 else ""
    # Drivers keep a part of the memory: an "80 GB" card has 79.
    if devices.device == "cuda" and wanted is not None and has is not None and has < 0.95 * wanted:
        return Finding(
            subject=stage.name,
            status="note",
            told=f"would start on {what}, and is sized for {wanted:g} GiB a GPU where there are {has:g}",
            remedy="smolrecipe plan --dry-run says what it takes",
            facts={"wanted_gib": wanted, "gib": has},
        )
    return Finding(subject=stage.name, status="ok", told=f"can run, {what}")
