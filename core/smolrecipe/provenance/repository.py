"""The git repository that a file lies in: which commit, and whether something in it differs from that commit."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

LOCK_SUFFIX = ".lock.json"
"""How lock files end; they tell the state of a repository and are no part of it."""

_SECONDS = 30


def git_state(file: Path) -> dict[str, Any] | None:
    """Commit, remote and whether tracked files differ; ``None`` outside a repository, and where git is not installed.

    Files that git does not track are left out, or a run store would make every repository differ.
    """
    folder = file.absolute().parent
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changed = _git(
        folder, "status", "--porcelain", "--untracked-files=no", "--", ":(top)", f":(top,exclude,glob)**/*{LOCK_SUFFIX}"
    )
    return {
        "commit": commit,
        "dirty": None if changed is None else bool(changed),
        "remote": without_credentials(_git(folder, "remote", "get-url", "origin") or ""),
    }


def without_credentials(url: str) -> str:
    """A remote's address without the user, password and query in it; ``git@host:path`` stays, it holds no secret."""
    if "://" not in url:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says, ``None`` where it cannot. It writes nothing, and runs no program that the repository names."""
    tool = shutil.which("git")
    if tool is None:
        return None
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # of a hook that this runs in
        environment.pop(name, None)
    command = [tool, "-c", "core.fsmonitor=false", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=False, env=environment, errors="replace"
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
