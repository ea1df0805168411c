"""The part of ``smolrecipe doctor`` that looks at engines: extras, GPUs as torch sees them, attention, the compiler.

torch is asked in a child process: this one imports no engine, and a driver that hangs or crashes takes only the child.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from smolrecipe.cli.doctor_findings import Finding
from smolrecipe.provenance.machine import hardware
from smolrecipe.provenance.packages import CORE, declared, extras_of, find_distribution

_SECONDS = 120
_NOT_FOR_RUNNING = {"all", "dev", "testing"}
_FLASH_CAPABILITY, _FA3_CAPABILITY = (8, 0), (9, 0)
"""flash-attn needs Ampere or newer; FlashAttention 3 was written for Hopper, compute capability 9.0."""

PROBE = """
import json, torch
found = {"torch": torch.__version__, "built_for": torch.version.cuda or "", "gpus": []}
try:
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        found["gpus"].append({"name": about.name, "memory_gib": round(about.total_memory / 2**30, 1),
                              "capability": [about.major, about.minor]})
except Exception as error:
    found["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
try:
    from torch.nn.attention import list_flash_attention_impls
    found["attention"] = list(list_flash_attention_impls())
except Exception:
    found["attention"] = []
print("PROBED" + json.dumps(found))
"""


def ask_torch() -> Mapping[str, Any]:
    """What torch says of itself and of the GPUs; ``{"error": why}`` where it does not say it."""
    if find_spec("torch") is None:
        return {"error": "torch is not installed"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"torch did not answer within {_SECONDS} s: does nvidia-smi?"}
    except OSError as error:
        return {"error": f"no child process could be started ({error.strerror})"}
    line = next((line for line in done.stdout.splitlines() if line.startswith("PROBED")), None)
    if done.returncode != 0 or line is None:
        last = next(
            (line for line in reversed(done.stderr.splitlines()) if line.strip()), f"exit code {done.returncode}"
        )
        return {"error": f"torch cannot be used here ({last.strip()})"}
    found: Mapping[str, Any] = json.loads(line.removeprefix("PROBED"))
    return found


def look_at_gpus(told: Mapping[str, Any]) -> Iterator[Finding]:
    """The GPUs that torch can use, and those that are there and that it cannot."""
    machine = hardware()
    present, driver = machine["gpus"], machine["driver"]
    gpus = told.get("gpus") or []
    for index, gpu in enumerate(gpus):
        major, minor = gpu["capability"]
        yield Finding(
            subject=f"GPU {index}",
            status="ok",
            told=f"{gpu['name']}, {gpu['memory_gib']} GiB, compute capability {major}.{minor}, driver {driver or '?'}",
            facts={**gpu, "driver": driver},
        )
    if gpus:
        return
    if not present:
        yield Finding(subject="GPUs", status="note", told="none: stages with device: cuda run elsewhere")
        return
    if os.environ.get("CUDA_VISIBLE_DEVICES") is not None:
        why = f"CUDA_VISIBLE_DEVICES is {os.environ['CUDA_VISIBLE_DEVICES']!r}"
        remedy = "unset it, or name those that are to be used"
    elif told.get("error"):
        why, remedy = str(told["error"]), "mend that first"
    elif not told.get("built_for"):
        why, remedy = "this torch is built for CPUs", "pip install torch with CUDA (pytorch.org/get-started)"
    else:
        why, remedy = f"torch, built for CUDA {told['built_for']}, does not see them", "update the driver"
    yield Finding(
        subject="GPUs",
        status="note",
        told=f"{len(present)} there ({present[0]}, driver {driver or 'unknown'}), none to be used: {why}",
        remedy=remedy,
        facts={"present": list(present), "driver": driver},
    )


def look_at_extras() -> Iterator[Finding]:
    """Every extra: its packages with their versions, or the command that installs what is missing."""
    plain = {str(requirement) for requirement in declared(CORE, [])}
    for extra in sorted(extras_of(CORE) - _NOT_FOR_RUNNING):
        own = [requirement for requirement in declared(CORE, [extra]) if str(requirement) not in plain]
        found = {requirement.name: _version(requirement) for requirement in own}
        missing = [name for name, version in found.items() if version is None]
        unfit = [
            f"{requirement.name} {found[requirement.name]} is not {requirement.specifier}"
            for requirement in own
            if found[requirement.name] and not requirement.specifier.contains(found[requirement.name] or "", True)
        ]
        there = ", ".join(f"{name} {version}" for name, version in found.items() if version is not None)
        wrong = "; ".join([*([f"without {', '.join(missing)}"] if missing else []), *unfit])
        yield Finding(
            subject=extra,
            status="note" if wrong else "ok",
            told=wrong or there,
            remedy=f"pip install '{CORE}[{extra}]'" if wrong else "",
            facts={"versions": found, "fits": not wrong},
        )


def look_at_kernels(told: Mapping[str, Any]) -> Iterator[Finding]:
    """Which fused attention there is, and whether torch.compile finds its compilers."""
    capabilities = [tuple(gpu["capability"]) for gpu in told.get("gpus") or []]
    installed = _version(Requirement("flash-attn"))
    capable = bool(capabilities) and min(capabilities) >= _FLASH_CAPABILITY
    if capable and installed:
        yield Finding(subject="flash-attn", status="ok", told=installed)
    elif capable:
        yield Finding(
            subject="flash-attn",
            status="note",
            told="not installed; torch's own kernels are used (backend: varlen)",
            remedy=f"pip install '{CORE}[flash]'",
        )
    else:
        why = "no GPU" if not capabilities else "the GPUs are older than compute capability 8.0"
        yield Finding(
            subject="flash-attn", status="note", told=f"of no use here, {why}: attention runs on torch's sdpa"
        )
    third = "FA3" in (told.get("attention") or ())
    module = any(find_spec(name) is not None for name in ("flash_attn_interface", "flash_attn_3"))
    usable = bool(capabilities) and min(capabilities) >= _FA3_CAPABILITY
    what = (
        "installed" if module else "torch can call it, and its library is not installed" if third else "not available"
    )
    yield Finding(
        subject="FlashAttention 3",
        status="ok" if module and usable else "note",
        told=what if usable or not module else f"{what}, but it needs GPUs of compute capability 9.0 or more",
        facts={"torch_knows_it": third, "installed": module, "capable_gpus": usable},
    )
    yield _compiler(bool(capabilities))


def _compiler(gpus: bool) -> Finding:
    named = os.environ.get("CXX")
    found = next((name for name in (named, "g++", "clang++", "c++") if name and shutil.which(name)), None)
    triton = _version(Requirement("triton"))
    header = Path(sysconfig.get_path("include"), "Python.h").is_file()
    lacking = [
        *([] if found else ["a C++ compiler (apt install g++)"]),
        *([] if header else ["Python.h (apt install python3-dev)"]),
        *([] if triton or not gpus else ["triton (pip install triton)"]),
    ]
    have = ", ".join([str(shutil.which(found or "") or ""), *([f"triton {triton}"] if triton else [])]).strip(", ")
    return Finding(
        subject="torch.compile",
        status="note" if lacking else "ok",
        told=f"with compile: true it would lack {' and '.join(lacking)}" if lacking else have,
        facts={"compiler": found, "triton": triton, "python_headers": header},
    )


def _version(requirement: Requirement) -> str | None:
    found = find_distribution(requirement.name)
    return None if found is None else str(found.version)
