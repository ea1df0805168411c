"""Which device torchtitan 0.3.0 computes on.

torchtitan picks the accelerator it finds when ``torchtitan.tools.utils`` is imported, assumes CUDA where it finds none,
and copies the choice into the modules it imports after that. There is no setting for it, so the choice is made here, in
the two attributes that hold it, before any other torchtitan module is imported.
"""

from __future__ import annotations

import logging
import os
import resource
import sys
import types
from typing import Any, Literal

import torch  # noqa: TID253
import torchtitan.tools.utils as titan_utils  # noqa: TID253

from smolrecipe import StageError


class _CpuModule(types.ModuleType):
    """``torch.cpu`` with the few queries beyond it that torchtitan makes of a device module."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    def device_count(self) -> int:
        """One: every process gets the same CPU."""
        return 1

    def current_device(self) -> int:
        """A number, because barriers take device numbers."""
        return 0

    def get_device_name(self, device: Any = None) -> str:
        """What the device is called in logs."""
        return "CPU"

    def get_device_properties(self, device: Any = None) -> types.SimpleNamespace:
        """The machine's memory."""
        return types.SimpleNamespace(total_memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))

    def memory_stats(self, device: Any = None) -> dict[str, int]:
        """This process' peak memory, under the names of CUDA's allocator."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {
            "active_bytes.all.peak": peak,
            "reserved_bytes.all.peak": peak,
            "num_alloc_retries": 0,
            "num_ooms": 0,
        }

    def reset_peak_memory_stats(self, device: Any = None) -> None:
        """Nothing: a process' peak cannot be reset."""

    def empty_cache(self) -> None:
        """Nothing: the CPU allocator keeps no cache."""


def use_device(device: Literal["cpu", "cuda"]) -> None:
    """Make torchtitan compute on ``device``. Nothing to do for the accelerator that it finds by itself.

    Raises:
        StageError: when there is no such device.
        RuntimeError: when torchtitan was imported for another device earlier in this process.
    """
    if device == "cuda":
        if not torch.cuda.is_available():
            raise StageError("parallelism.device is cuda and torch finds no CUDA device here: set it to cpu")
        wanted = "cuda"
    else:
        wanted = "cpu"
    if titan_utils.device_type == wanted:
        return
    # The modules that copy the choice; all the others ask one of these.
    late = [name for name in ("torchtitan.distributed.utils", "torchtitan.components.metrics") if name in sys.modules]
    if late or wanted == "cuda":
        raise RuntimeError(f"torchtitan was imported for '{titan_utils.device_type}' before use_device('{wanted}')")
    titan_utils.device_type = "cpu"
    titan_utils.device_module = _CpuModule("smolrecipe_cpu")
    logging.getLogger().addFilter(_is_no_guess_about_gpus)


def _is_no_guess_about_gpus(record: logging.LogRecord) -> bool:
    """Whether a log record is something else than torchtitan's search for the peak speed of a GPU.

    torchtitan logs through the root logger, whose filters see no other logger's records.
    """
    return not record.getMessage().startswith(("Error running lspci", "Peak flops undefined"))
