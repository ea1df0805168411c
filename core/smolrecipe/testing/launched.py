"""What the kit lets launchers run: a process that writes down how it was started, and meets the others.

``python -m smolrecipe.testing.launched FOLDER FAILING ARGUMENT...`` writes ``FOLDER/<rank>-<process>.json``. The one
with the rank ``FAILING`` then exits with 3; the others wait for a while, as a stage's would for one that is gone.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
WAIT_SECONDS = 15
MEETING_SECONDS = 30


def main(arguments: list[str]) -> int:
    """Write down the arguments and the environment; fail, or meet the other processes."""
    folder, failing, *_ = arguments
    rank = os.environ.get("RANK", "0")
    told = {
        "arguments": arguments,
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "environment": dict(os.environ),
        "time": time.time(),
    }
    unfinished = Path(folder) / f"{rank}-{os.getpid()}.part"
    unfinished.write_text(json.dumps(told))
    unfinished.rename(unfinished.with_suffix(".json"))
    if failing == rank:
        return 3
    if failing:
        time.sleep(WAIT_SECONDS)
    elif os.environ.get("WORLD_SIZE", "1") != "1" and importlib.util.find_spec("torch") is not None:
        _meet()
    return 0


def _meet() -> None:
    """Join the others' process group, and leave it: fails where the variables lead nowhere."""
    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=timedelta(seconds=MEETING_SECONDS))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
