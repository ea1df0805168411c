"""torchtitan in the process of a test: on a CPU where there is no GPU.

torchtitan takes over the accelerator that it finds when ``torchtitan.tools.utils`` is imported, assumes CUDA where it
finds none, and has no setting for it.
"""

# mypy: disable-error-code="import-untyped"

from __future__ import annotations

import os
import resource
import sys
import types
from typing import Any


def use_cpu_without_gpu() -> None:
    """Make torchtitan compute on the CPU of a machine without a GPU; do nothing where there is one, or where it does.

    Call it before other torchtitan modules are imported. Those that are there already have copied the choice and are
    told, too: a plugin's tests import what they like before they ask for its contract.
    """
    import torch
    import torchtitan.tools.utils as utils

    if torch.cuda.is_available() or utils.device_type != "cuda":
        return
    module = _CpuModule("smolrecipe_cpu")
    for name, loaded in list(sys.modules.items()):
        held = vars(loaded)
        if name.startswith("torchtitan.") and held.get("device_type") == "cuda":
            held["device_type"] = "cpu"
            if "device_module" in held:
                held["device_module"] = module


class _CpuModule(types.ModuleType):
    """``torch.cpu`` and what torchtitan asks of a device module besides: all of it, for tests that train later on."""

    def __getattr__(self, name: str) -> Any:
        import torch

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
        """The machine's memory in bytes."""
        return types.SimpleNamespace(total_memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))

    def memory_stats(self, device: Any = None) -> dict[str, int]:
        """This process' peak memory in bytes, under the names of CUDA's allocator."""
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
