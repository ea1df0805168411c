"""Several processes of a stage on this machine, by what torchrun consists of.

``python -m smolrecipe_local.elastic PROCESSES MODULE ARGUMENT...`` does what ``torchrun --standalone --nproc-per-node
PROCESSES -m MODULE ARGUMENT...`` does. Besides, it passes SIGTERM on and waits for the processes to end as long as the
run's grace period lasts, it says how each of them ended, and it writes nothing outside the run store.

When one process fails or is killed, the others get SIGTERM at once and SIGKILL 30 seconds later (torchrun's, and
fixed); all of them are gone then. One that is stopped or stuck is found by what the others wait for: their collectives
time out, and then the same happens.
"""

from __future__ import annotations

import json
import math
import os
import sys
import uuid
from collections.abc import Mapping, Sequence

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException  # noqa: TID253
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure  # noqa: TID253
from torch.distributed.launcher.api import LaunchConfig, elastic_launch  # noqa: TID253

from smolrecipe.stage import ENDS_VARIABLE, GRACE_VARIABLE, LAUNCHER_VARIABLE

_LONGER_THAN_GRACE = 30
"""Seconds added to the grace period: it is the runner that ends it, not this process a moment before."""


def main(arguments: Sequence[str]) -> int:
    """Start the processes and wait for them; see the module.

    Returns:
        The exit code: 0 when all of them ended with 0, more than 128 after a signal.
    """
    processes, *worker = arguments
    os.environ[LAUNCHER_VARIABLE] = str(os.getpid())
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as torchrun does: each process would take all cores
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=int(processes),
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",  # a free port, so that two runs on one machine do not meet
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
        shutdown_timeout=math.ceil(float(os.environ.get(GRACE_VARIABLE, "0"))) + _LONGER_THAN_GRACE,
    )
    try:
        elastic_launch(config, sys.executable)("-u", "-m", *worker)
    except SignalException as asked:
        return 128 + asked.sigval
    except ChildFailedError as error:
        _tell_ends(error.failures)
        return 1
    return 0


def _tell_ends(failures: Mapping[int, ProcessFailure]) -> None:
    """Write how the processes ended over the blanks that the runner has made; a full disk is no obstacle then."""
    ends = {str(rank): [failure.exitcode, failure.timestamp] for rank, failure in failures.items()}
    for rank, failure in sorted(failures.items()):
        sys.stderr.write(f"rank {rank} (process {failure.pid}) ended with {failure.exitcode}\n")
    if path := os.environ.get(ENDS_VARIABLE):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.pwrite(descriptor, json.dumps(ends).encode(), 0)
        os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
