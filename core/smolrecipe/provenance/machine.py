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

MOUNTS_FILE = Path("/proc/self/mountinfo")
MEMORY_LIMIT_FILES = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""What a container may use, in cgroups of the second and of the first version."""

NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "ceph", "glusterfs", "beegfs", "gpfs", "9p", "afs", "orangefs"}
    | {"fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.juicefs", "fuse.mountpoint-s3"}
)
"""Types of file systems whose files lie on another machine."""

_SECONDS = 10
_NO_LIMIT = 2**60


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


def free_memory() -> tuple[float | None, float | None]:
    """GiB of memory that are free now, and that this process may take at most where a container bounds it."""
    free = _first(MEMORY_FILE, r"MemAvailable:\s*(\d+)")
    limits = [int(text) for file in MEMORY_LIMIT_FILES if (text := _first(file, r"^(\d+)$"))]
    limit = min((limit for limit in limits if limit < _NO_LIMIT), default=None)
    return round(int(free) / 2**20, 1) if free else None, round(limit / 2**30, 1) if limit is not None else None


def file_system(path: Path) -> str:
    """The type of the file system that a path, which exists, lies on (``ext4``, ``nfs4``); nothing if it is unknown."""
    try:
        lines = MOUNTS_FILE.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    real, found, length = path.resolve(), "", -1
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if len(fields) < 5 or not kinds:
            continue
        mounted = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4]))
        if real.is_relative_to(mounted) and len(mounted.parts) >= length:  # a later mount covers an earlier one
            found, length = kinds[0], len(mounted.parts)
    return found


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
