"""Starting a stage's processes on this machine: one by itself, several under torchrun."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from attrs import frozen

from smolrecipe import Devices, Launcher, hookimpl, option

DEVICE_FOLDER = Path("/dev")
DRIVER_FOLDER = Path("/proc/driver/nvidia/gpus")


@frozen(kw_only=True)
class LocalOptions:
    """How processes start on this machine."""

    threads: int | None = option(
        default=None,
        at_least=1,
        identity=False,
        doc="CPU threads of each process of a CPU stage that has several; without it, the cores divided among them "
        "(or OMP_NUM_THREADS, where that is set)",
    )


def capacity(options: LocalOptions) -> Mapping[str, int]:
    """How many GPUs this machine has; CPU processes have no limit."""
    gpus = count_gpus()
    return {} if gpus is None else {"cuda": gpus}


def count_gpus() -> int | None:
    """The number of GPUs that a CUDA program started here would see, without loading CUDA.

    ``None`` where that cannot be told: under WSL the driver shows none of its devices.
    """
    present = len([path for path in DEVICE_FOLDER.glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)])
    if not present and DRIVER_FOLDER.is_dir():
        present = len(list(DRIVER_FOLDER.iterdir()))
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None and (present or not chosen.strip()):
        return _chosen(chosen, present)
    if not present and (DEVICE_FOLDER / "dxg").exists():
        return None
    return present


def _chosen(text: str, present: int) -> int:
    """How many of the devices in a ``CUDA_VISIBLE_DEVICES`` there are: CUDA stops at the first that is not valid."""
    count = 0
    for entry in text.split(","):
        name = entry.strip()
        if not (name.startswith(("GPU-", "MIG-")) or (name.isdecimal() and int(name) < present)):
            break
        count += 1
    return count


def command(options: LocalOptions, devices: Devices, worker: Sequence[str]) -> list[str]:
    """The command line that runs the module ``worker[0]`` with its arguments in so many processes."""
    if devices.processes == 1:
        return [sys.executable, "-m", *worker]
    return [sys.executable, "-m", "smolrecipe_local.elastic", str(devices.processes), *worker]


def environment(options: LocalOptions, devices: Devices) -> Mapping[str, str]:
    """What the processes need: a share of the cores each, and no GPU in sight of a CPU stage."""
    if devices.device == "cuda":
        return {}
    settings = {"CUDA_VISIBLE_DEVICES": ""}
    if "GOMP_SPINCOUNT" not in os.environ:
        # Threads that wait for each other spin; where something else keeps a core busy, spinning for long made a small
        # model's step six times slower, and spinning this little cost nothing on a free machine.
        settings["GOMP_SPINCOUNT"] = "10000"
    if devices.processes > 1 and (options.threads is not None or "OMP_NUM_THREADS" not in os.environ):
        # Each would take all cores.
        settings["OMP_NUM_THREADS"] = str(options.threads or max(1, count_cores() // devices.processes))
    return settings


def count_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@hookimpl
def smolrecipe_launchers() -> Iterable[Launcher]:
    """Offer ``local``."""
    yield Launcher(
        name="local",
        summary="processes on this machine, several of them under torchrun",
        source="torch.distributed.run",
        options=LocalOptions,
        capacity=capacity,
        command=command,
        environment=environment,
    )
