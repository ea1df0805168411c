"""One machine's part of a stage's processes, by what torchrun consists of.

``python -m smolrecipe_slurm.agent MEETING MODULE ARGUMENT...``, with the options of launcher ``torchrun``, the number
of ``processes`` in all and that of the ``node``, as JSON, does what this does on node 0, and with ``is_host=false`` on
the others::

    torchrun --nnodes NODES --nproc-per-node PROCESSES/NODES --rdzv-backend c10d --rdzv-endpoint HOST:PORT --rdzv-id ID
             --rdzv-conf is_host=true,join_timeout=WAIT,read_timeout=WAIT --max-restarts 0 -m MODULE ARGUMENT...

Besides, it passes SIGTERM on once, however often it comes (Slurm sends it to every process of a job, and what started
this one passes it on too), and waits for the processes to end as long as the run's grace period lasts; it says how each
of them ended; and it writes nothing outside the run store.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException  # noqa: TID253
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure  # noqa: TID253
from torch.distributed.elastic.rendezvous.api import RendezvousError  # noqa: TID253
from torch.distributed.launcher.api import LaunchConfig, elastic_launch  # noqa: TID253

from smolrecipe.stage import ENDS_VARIABLE, GRACE_VARIABLE, LAUNCHER_VARIABLE, die_with_parent

_LONGER_THAN_GRACE = 30
"""Seconds added to the grace period: it is the runner that ends it, not this process a moment before."""


def main(arguments: Sequence[str]) -> int:
    """Start this machine's processes and wait for them; see the module.

    Returns:
        The exit code: 0 when all of them ended with 0, more than 128 after a signal.
    """
    meeting, *worker = arguments
    die_with_parent()
    os.environ[LAUNCHER_VARIABLE] = str(os.getpid())
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun does: each process would take all cores
    signal.signal(signal.SIGTERM, _stop)
    try:
        elastic_launch(_config(**json.loads(meeting)), sys.executable)("-u", "-m", *worker)
    except SignalException as asked:
        return 128 + asked.sigval
    except ChildFailedError as error:
        _tell_ends(error.failures)
        return 1
    except (RendezvousError, TimeoutError) as error:  # its own is one of these
        sys.stderr.write(f"the machines have not met: {error}\n")
        return 1
    return 0


def _stop(number: int, frame: FrameType | None) -> None:
    """Have the processes stopped. Another signal meanwhile would cut short the wait for what they save."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SignalException("asked to stop", signal.Signals(number))


def _config(*, nodes: int, rendezvous: str, id: str, wait: float, processes: int, node: int) -> LaunchConfig:
    seconds = math.ceil(wait)
    configs: dict[str, Any] = {"is_host": node == 0, "join_timeout": seconds, "read_timeout": seconds}
    return LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=processes // nodes,
        run_id=id,
        rdzv_backend="c10d",
        rdzv_endpoint=rendezvous or "localhost:0",  # alone, at a free port
        rdzv_configs=configs,
        local_addr=_own_address(rendezvous) if rendezvous else None,
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
        signals_to_handle="SIGINT,SIGHUP,SIGQUIT",  # SIGTERM has its handler
        shutdown_timeout=math.ceil(float(os.environ.get(GRACE_VARIABLE, "0"))) + _LONGER_THAN_GRACE,
    )


def _own_address(rendezvous: str) -> str | None:
    """The address of this machine on the network of the meeting place: its own name need not be known to the others."""
    host, _, port = rendezvous.rpartition(":")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)  # sends nothing
            return str(probe.getsockname()[0])
    except OSError:
        return None  # the meeting will say what is wrong


def _tell_ends(failures: Mapping[int, ProcessFailure]) -> None:
    """Add how this machine's processes ended to the blanks that the runner has made: a full disk is no obstacle."""
    ends: dict[str, Any] = {str(rank): [failure.exitcode, failure.timestamp] for rank, failure in failures.items()}
    for rank, failure in sorted(failures.items()):
        sys.stderr.write(
            f"rank {rank} (process {failure.pid} on {socket.gethostname()}) ended with {failure.exitcode}\n"
        )
    if path := os.environ.get(ENDS_VARIABLE):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        told = os.read(descriptor, 1 << 20)
        ends = {**(json.loads(told) if told.strip() else {}), **ends}
        os.pwrite(descriptor, json.dumps(ends).encode().ljust(len(told)), 0)
        os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
