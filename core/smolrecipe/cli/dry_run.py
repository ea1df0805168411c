"""``smolrecipe plan --dry-run``: every stage's layout built without weights, and what it would take, as a table."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from attrs import asdict, frozen

from smolrecipe.cli.session import Session, recipe_arguments
from smolrecipe.cli.tables import print_table
from smolrecipe.components import DryRun
from smolrecipe.errors import StageError, UserError
from smolrecipe.planning.plan import Plan, PlannedStage
from smolrecipe.planning.workloads import workloads_of
from smolrecipe.running.metrics import MetricsFollower, MetricsWriter
from smolrecipe.running.process import run_processes

_GIB = 2**30
_SECONDS_PER_DAY = 86400.0


@frozen(kw_only=True)
class Speed:
    """What is assumed of a device: the share ``mfu`` of its peak speed, in 1e12 operations per second."""

    mfu: float
    peak_tflops: float


@frozen(kw_only=True)
class BuiltStage:
    """A stage and what its dry run found."""

    stage: PlannedStage
    found: DryRun
    more_work: float = 0.0
    """What it computes besides forward and backward pass, as a share of them (``Workload.more_work``)."""

    def tokens_per_second(self, speed: Speed) -> float:
        """Of one device."""
        return speed.mfu * speed.peak_tflops * 1e12 / (self.found.flops_per_token * (1 + self.more_work))

    def days(self, speed: Speed) -> float:
        """Of the whole stage on all its devices."""
        tokens = self.found.steps * self.found.tokens_per_step
        return tokens / (self.tokens_per_second(speed) * self.found.devices) / _SECONDS_PER_DAY

    def as_json(self, speed: Speed) -> dict[str, Any]:
        """All of it, for programs."""
        return {
            "stage": self.stage.name,
            **asdict(self.found),
            "bytes": self.found.bytes,
            "mfu": speed.mfu,
            "peak_tflops": speed.peak_tflops,
            "tokens_per_second_per_device": self.tokens_per_second(speed),
            "days": self.days(speed),
        }


def dry_run(session: Session, plan: Plan, recipe: str, settings: Sequence[str]) -> list[BuiltStage]:
    """Build the stages whose kind can be built without weights, one after the other in a process of their own.

    Raises:
        UserError: when layouts cannot be built; all of them are named.
    """
    if not any(stage.use.component.dry_run for stage in plan.stages):
        return []
    folder = Path(tempfile.mkdtemp(prefix="smolrecipe-dry-run-"))
    plugins = ["--plugins", ",".join(session.plugins)] if session.plugins is not None else []
    overrides = [argument for setting in settings for argument in ("--set", setting)]
    events = folder / "events.jsonl"
    follower = MetricsFollower(events)
    told: list[dict[str, Any]] = []

    def listen() -> None:
        for event in follower.new_events():
            told.append(event)
            if "found" not in event and "refusal" not in event:
                devices = plan.by_name[event["stage"]].devices.processes
                click.echo(f"{event['stage']}: building its layout of {devices} devices ...", err=True)

    command = [*plugins, "_dry_run", *overrides, recipe, str(events)]
    code = run_processes([sys.executable, "-m", "smolrecipe", *command], {}, folder / "log.txt", listen)
    if code != 0:
        last = told[-1]["stage"] if told else plan.stages[0].name
        raise UserError(f"the dry run of stage '{last}' crashed; its log: {folder / 'log.txt'}")
    shutil.rmtree(folder)
    if refusals := [f"stage '{event['stage']}': {event['refusal']}" for event in told if "refusal" in event]:
        raise UserError("\n".join(refusals))
    workloads = workloads_of(plan)
    return [
        BuiltStage(
            stage=plan.by_name[event["stage"]],
            found=DryRun(**event["found"]),
            more_work=workloads[event["stage"]].more_work,
        )
        for event in told
        if "found" in event
    ]


@click.command(name="_dry_run", hidden=True)
@recipe_arguments
@click.argument("events", type=click.Path(path_type=Path))
@click.pass_obj
def dry_run_worker(session: Session, recipe: str, settings: tuple[str, ...], events: Path) -> None:
    """Build the layouts of a recipe's stages in this process, and append what is found to a file."""
    report = MetricsWriter(events)
    for stage in session.plan(recipe, settings).stages:
        build = stage.use.component.dry_run
        if build is None:
            continue
        report({"stage": stage.name})
        try:
            report({"stage": stage.name, "found": asdict(build(stage.use.options))})
        except StageError as error:
            report({"stage": stage.name, "refusal": str(error)})


def print_dry_run(built: Sequence[BuiltStage], speed: Speed) -> None:
    """Print what every stage would hold on one device, and how long it would take."""
    if not built:
        click.echo("no stage of this recipe can be built without weights")
        return
    _print_memory(built)
    click.echo()
    _print_time([item for item in built if item.stage.devices.device == "cuda"], speed)
    for item in built:
        memory = item.stage.devices.memory_gib
        if memory and item.found.bytes > memory * _GIB:
            click.echo(
                f"{item.stage.place}: stage '{item.stage.name}' needs {_gib(item.found.bytes)} GiB a device and has "
                f"{memory:g}: lower micro_batch, shard more, or recompute activations"
            )


def _print_memory(built: Sequence[BuiltStage]) -> None:
    headings = ("stage", "devices", "parameters", "weights", "gradients", "optimizer", "activations", "other", "in all")
    rows = []
    for item in built:
        found, memory = item.found, item.stage.devices.memory_gib
        parts = (
            found.weight_bytes,
            found.gradient_bytes,
            found.optimizer_bytes,
            found.activation_bytes,
            found.other_bytes,
        )
        total = _gib(found.bytes) + (f" of {memory:g}" if memory else "")
        rows.append((item.stage.name, f"{found.devices:,}", f"{found.parameters:,}", *map(_gib, parts), total))
    print_table(headings, rows, right=range(1, len(headings)), title="GiB that one device holds at the peak of a step")


def _print_time(built: Sequence[BuiltStage], speed: Speed) -> None:
    if not built:
        return
    headings = ("stage", "GFLOP/token", "tokens/step", "steps", "tokens/s a device", "days")
    rows = [
        (
            item.stage.name,
            f"{item.found.flops_per_token / 1e9:.2f}",
            f"{item.found.tokens_per_step:,}",
            f"{item.found.steps:,}",
            f"{item.tokens_per_second(speed):,.0f}",
            f"{item.days(speed):.2f}",
        )
        for item in built
    ]
    title = f"time, if a device reaches {speed.mfu:.1%} (--mfu) of {speed.peak_tflops:g} TFLOP/s (--peak-tflops)"
    print_table(headings, rows, right=range(1, len(headings)), title=title)
    days = sum(item.days(speed) for item in built)
    hours = sum(item.days(speed) * item.found.devices * 24 for item in built)
    click.echo(f"{days:.1f} days and {hours:,.0f} device hours of training, without evaluation and interruptions")


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f}"
