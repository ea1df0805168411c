"""``smolrecipe _stage``: what a launcher starts in each of a stage's processes. Not for people."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from smolrecipe.cli.session import Session
from smolrecipe.running.task import Task
from smolrecipe.running.worker import run_task


@click.command(name="_stage", hidden=True)
@click.argument("task_file", type=click.Path(exists=True, path_type=Path))
def stage(task_file: Path) -> None:
    """Run one stage in this process."""
    task = Task.read(task_file)
    registry = Session(task.plugins).registry
    sys.exit(run_task(task, registry.catalog, registry.manager.hook))
