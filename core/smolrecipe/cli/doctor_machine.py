"""The part of ``smolrecipe doctor`` that looks at the machine: Python, cores, memory, clock, and the way to the Hub."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import smolrecipe
from smolrecipe.cli.doctor_findings import Finding
from smolrecipe.provenance.machine import free_memory, hardware
from smolrecipe.running.disk import room

OLDEST_PYTHON = (3, 11)
_LITTLE_MEMORY_GIB = 3.0
"""What the smallest shipped recipe takes, with room for the system."""

_FEW_FILES = 1024
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_ON = {"1", "true", "yes", "on"}


def look_at_machine() -> Iterator[Finding]:
    """Python, processor, memory, open files and the clock."""
    found = sys.version_info[:2]
    version = f"{platform.python_implementation()} {platform.python_version()}"
    yield Finding(
        subject="Python",
        status="ok" if found >= OLDEST_PYTHON else "lacks",
        told=f"{version}, {sys.executable}",
        remedy="" if found >= OLDEST_PYTHON else f"install Python {'.'.join(map(str, OLDEST_PYTHON))} or newer",
        facts={"version": platform.python_version()},
    )
    machine = hardware()
    cores = machine["cores"]
    yield Finding(
        subject="processor",
        status="ok",
        told=f"{cores} core{'s' if cores != 1 else ''}, {machine['machine']}, {machine['cpu'] or 'unknown'}",
        facts={"cores": cores, "cpu": machine["cpu"], "machine": machine["machine"], "system": machine["system"]},
    )
    yield _memory(machine["memory_gib"])
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _FEW_FILES:
        yield Finding(
            subject="open files",
            status="note",
            told=f"at most {soft} at a time",
            remedy=f"data sets of many files want more: ulimit -n {_FEW_FILES * 4}",
            facts={"limit": soft},
        )
    yield _clock()


def look_at_hub() -> Iterator[Finding]:
    """Whether there is a token of the Hugging Face Hub (never its value), what keeps it offline, and its cache."""
    variable = next((name for name in _TOKENS if os.environ.get(name, "").strip()), None)
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    file = Path(os.environ.get("HF_TOKEN_PATH") or home / "token").expanduser()
    where = f"in {variable}" if variable else f"in {file}" if _has_content(file) else ""
    yield Finding(
        subject="token",
        status="ok" if where else "note",
        told=f"there is one {where}" if where else "there is none",
        remedy="" if where else "hf auth login, or set HF_TOKEN, for gated data and for uploads",
        facts={"present": bool(where)},
    )
    offline = [name for name in _OFFLINE if os.environ.get(name, "").strip().lower() in _ON]
    yield Finding(
        subject="network",
        status="note" if offline else "ok",
        told=f"{', '.join(offline)} set: nothing is downloaded or uploaded" if offline else "no variable keeps it off",
        facts={"offline": offline},
    )
    yield Finding(subject="cache", status="ok", told=f"{home}, {room(home)}", facts={"path": str(home)})


def _memory(whole: float | None) -> Finding:
    free, limit = free_memory()
    least = min((value for value in (free, limit) if value is not None), default=None)
    told = f"{whole or 'an unknown number of'} GiB" + (f", {free} free" if free is not None else "")
    if limit is not None and (whole is None or limit < whole):
        told += f", of which this container may use {limit}"
    little = least is not None and least < _LITTLE_MEMORY_GIB
    return Finding(
        subject="memory",
        status="note" if little else "ok",
        told=told,
        remedy="even the smallest recipe wants more: close other programs" if little else "",
        facts={"gib": whole, "free_gib": free, "limit_gib": limit},
    )


def _clock() -> Finding:
    """A clock that is behind what lies on the disk breaks certificates, and the order of artifacts."""
    now, installed = time.time(), Path(smolrecipe.__file__).stat().st_mtime
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    behind = now < installed - 1
    return Finding(
        subject="clock",
        status="note" if behind else "ok",
        told=f"{shown}, before smolrecipe was installed" if behind else shown,
        remedy="set it; downloads fail while it is wrong" if behind else "",
        facts={"unix": now},
    )


def _has_content(file: Path) -> bool:
    try:
        return file.is_file() and file.stat().st_size > 0
    except OSError:
        return False
