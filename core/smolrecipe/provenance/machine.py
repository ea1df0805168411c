"""The machine that something runs on: its processor, memory and accelerators, without loading CUDA."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

CPU_FILE = Path("/proc/cpuinfo")
MEMORY_FILE = Path("/proc/meminfo")
GPU_FOLDER = Path("/proc/driver/nvidia/gpus")
DRIVER_FILE = Path("/proc/driver/nvidia/version")

_SECONDS = 10


def hardware() -> dict[str, Any]:
    """The system, processor, cores that this process may use, memory in GiB, GPUs with their driver.

    What cannot be told is empty. All GPUs of the machine are listed, whichever of them a stage may see.
    """
    gpus, driver = _gpus()
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "kernel": platform.release(),
        "libc": " ".join(platform.libc_ver()).strip(),
        "cpu": _first(CPU_FILE, r"(?:model name|Model|Hardware)\s*:\s*(.+)") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(int(_first(MEMORY_FILE, r"MemTotal:\s*(\d+)") or 0) / 2**20, 1) or None,
        "gpus": gpus,
        "driver": driver,
    }


def _gpus() -> tuple[list[str], str]:
    """The GPUs, with their memory where the driver's own tool is there to ask, and the driver's version."""
    tool = shutil.which("nvidia-smi")
    if tool is not None:
        query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        try:
            told = subprocess.run(query, capture_output=True, text=True, timeout=_SECONDS, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            told = ""
        rows = [[cell.strip() for cell in line.split(",")] for line in told.splitlines()]
        if rows and all(len(row) == 3 for row in rows):
            return [f"{name}, {memory}" for name, memory, _ in rows], rows[0][2]
    files = sorted(GPU_FOLDER.glob("*/information"))
    return [_first(file, r"Model:\s*(.+)") or "unknown" for file in files], _first(DRIVER_FILE, r"Module\s+([\d.]+)")


def _first(path: Path, pattern: str) -> str:
    """What the pattern's group matches first in a file, nothing where it does not or there is no such file."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(pattern, text)
    return found[1].strip() if found else ""
