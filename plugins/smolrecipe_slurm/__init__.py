"""Clusters: ``smolrecipe launch``, which writes jobs for Slurm and starts a stage on several machines by hand."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from attrs import asdict, frozen

from smolrecipe import Devices, Launcher, StageError, hookimpl, option

if TYPE_CHECKING:
    import click


@frozen(kw_only=True)
class TorchrunOptions:
    """Where a stage's processes run, and where they meet. ``smolrecipe launch node`` fills these in."""

    nodes: int = option(
        default=1,
        at_least=1,
        identity=False,
        doc="machines; on each of the others, 'smolrecipe launch node' starts its part of the processes",
    )
    rendezvous: str = option(
        default="",
        identity=False,
        doc="host:port at which the machines meet: this machine's, as the others reach it, and a port that is free",
    )
    id: str = option(
        default="smolrecipe",
        identity=False,
        doc="tells this meeting from others at the same place: the same on every machine, another for each attempt",
    )
    wait: float = option(default=600.0, more_than=0, identity=False, doc="seconds in which all machines have to meet")


def problems(options: TorchrunOptions) -> Iterable[str]:
    """What is wrong with the options taken together."""
    if options.nodes > 1 and not options.rendezvous:
        yield f"{options.nodes} machines have to meet somewhere: give 'rendezvous', host:port of the first of them"
    if options.rendezvous and not is_address(options.rendezvous):
        yield f"rendezvous '{options.rendezvous}' is no host:port, such as node1:29400"


def is_address(text: str) -> bool:
    """Whether this is ``host:port``."""
    host, _, port = text.rpartition(":")
    return bool(host) and not any(map(str.isspace, text)) and port.isdecimal() and 0 < int(port) < 1 << 16


def command(options: TorchrunOptions, devices: Devices, worker: Sequence[str]) -> list[str]:
    """The command line that runs the module ``worker[0]`` in this machine's part of the processes."""
    if devices.processes == 1 and options.nodes == 1:
        return [sys.executable, "-m", *worker]
    if devices.processes % options.nodes:
        raise StageError(uneven(devices.processes, options.nodes))
    return agent_command(options, devices.processes, 0, worker)


def uneven(processes: int, nodes: int) -> str:
    """The refusal of processes that do not fill machines."""
    return f"{processes} processes cannot be shared evenly among {nodes} machines: choose another number of them"


def agent_command(options: TorchrunOptions, processes: int, node: int, worker: Sequence[str]) -> list[str]:
    """The command line of the agent that starts one machine's part of ``processes``."""
    meeting = json.dumps({**asdict(options), "processes": processes, "node": node})
    return [sys.executable, "-m", "smolrecipe_slurm.agent", meeting, *worker]


def environment(options: TorchrunOptions, devices: Devices) -> Mapping[str, str]:
    """No GPU in sight of a CPU stage."""
    return {"CUDA_VISIBLE_DEVICES": ""} if devices.device == "cpu" else {}


@hookimpl
def smolrecipe_launchers() -> Iterable[Launcher]:
    """Offer ``torchrun``."""
    yield Launcher(
        name="torchrun",
        summary="processes on several machines, that meet as torchrun's do (c10d)",
        source="torch.distributed.run",
        options=TorchrunOptions,
        check=problems,
        capacity=lambda options: None,
        command=command,
        environment=environment,
    )


@hookimpl
def smolrecipe_commands(cli: click.Group) -> None:
    """Add ``launch``, or to it where another plugin has made it."""
    import click

    from smolrecipe.commands import Later

    group = cli.commands.get("launch")
    if not isinstance(group, click.Group):
        group = click.Group(
            "launch",
            help="Start a recipe elsewhere: on a cluster, or on several machines by hand.",
            short_help="Run a recipe on a cluster, or on several machines.",
            epilog="\b\nExample:\n  smolrecipe launch slurm smollm3-tiny",
        )
        cli.add_command(group)
    commands = "smolrecipe_slurm.commands"
    group.add_command(Later("slurm", f"{commands}:slurm", "Write a recipe as jobs for Slurm, and submit them."))
    group.add_command(Later("node", f"{commands}:node", "Run one machine's part of a stage that runs on several."))
