"""Whether a process holds the lock (flock) of a file: a look that keeps nobody from taking it for longer than that."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def is_held(path: Path) -> bool:
    """Whether a process holds the file exclusively; its children by ``fork`` count as it. No for what cannot be opened.

    The look shares the lock for a moment, so that two that look do not take each other for a holder.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
