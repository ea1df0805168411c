"""Seeded random orders that are the same on every machine and with every version of numpy."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import numpy as np


def permutation(size: int, *key: int | str) -> np.ndarray[Any, np.dtype[np.int64]]:
    """A random order of 0 .. ``size`` - 1, shape (size,), that depends on ``key`` alone.

    The order is that of ``size`` numbers of a Philox generator keyed by a hash of ``key``: numpy promises the numbers
    of a bit generator for ever, but not what ``Generator.permutation`` makes of them.
    """
    digest = blake2b("\0".join(map(str, key)).encode(), digest_size=16).digest()
    numbers = np.random.Philox(key=np.frombuffer(digest, "<u8")).random_raw(size)
    return np.argsort(numbers, kind="stable")
