"""Paths in a recipe: from the file that names them to a place on this machine, or to why there is none."""

from __future__ import annotations

import os
from pathlib import Path

_LONGEST_PATH = 4096
_LONGEST_NAME = 255
"""What file systems take, in bytes."""
_KERNELS = (Path("/proc"), Path("/sys"))
"""What looks like files there is made by the kernel while it is read, some of it without end."""


def located(text: str, folder: Path) -> Path:
    """The path that ``text``, written in a file in ``folder``, means; ``~`` is somebody's home.

    Raises:
        ValueError: where it cannot be one; the message continues a sentence that starts with the option's name.
    """
    if "\0" in text:
        raise ValueError("holds U+0000, which no path does")
    longest = max(len(os.fsencode(part)) for part in text.split("/"))
    if longest > _LONGEST_NAME:
        raise ValueError(f"names a file of {longest:,} characters: {_LONGEST_NAME} are the most")
    try:
        path = folder / Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"names the home of {text.partition('/')[0]}, and there is no such user here") from None
    length = len(os.fsencode(path.absolute()))
    if length >= _LONGEST_PATH:
        raise ValueError(f"is a path of {length:,} characters: {_LONGEST_PATH:,} are the most")
    real = Path(os.path.realpath(path))
    if kernels := [folder for folder in _KERNELS if real.is_relative_to(folder)]:
        raise ValueError(f"lies in {kernels[0]}, which has no files but what the kernel makes up")
    return path


def no_file(path: Path) -> str | None:
    """Why there is nothing to read at a path; ``None`` where there is a regular file."""
    try:
        if path.is_file():
            return None
        return f"{path} is no regular file" if path.exists() else f"there is no file {path}"
    except (OSError, ValueError) as error:
        return f"{path} cannot be read ({getattr(error, 'strerror', None) or error})"
