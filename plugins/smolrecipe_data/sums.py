"""The sums behind the ``arithmetic`` source: which there are, which are held out, and in what order they come.

Everything here is decided by hashes of what it is about, so that it is the same on every machine and Python version.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from hashlib import blake2b
from typing import Literal

Pair = tuple[int, int]

_HASH_RANGE = 2**64


def split_of(a: int, b: int, held_out: float) -> Literal["train", "held_out"]:
    """The split of a + b, and of b + a: held out with probability ``held_out``, whatever the other sums are."""
    small, large = sorted((a, b))
    return "held_out" if _hash("split", small, large) < held_out * _HASH_RANGE else "train"


def pairs(largest: int, split: str, held_out: float) -> Iterator[Pair]:
    """All (a, b) of a split with 0 <= a, b <= ``largest``, ascending."""
    for a, b in itertools.product(range(largest + 1), repeat=2):
        if split_of(a, b, held_out) == split:
            yield a, b


def endless(all_pairs: list[Pair], language: str, seed: int) -> Iterator[Pair]:
    """All pairs again and again, in another order each time round and in each language."""
    for time_round in itertools.count():
        yield from sorted(all_pairs, key=lambda pair: _hash("order", seed, language, time_round, *pair))


def wrong_sum(a: int, b: int, seed: int, largest_error: int) -> int:
    """A number that is not a + b, and at most ``largest_error`` away from it."""
    distances = [
        distance for distance in range(-largest_error, largest_error + 1) if distance and a + b + distance >= 0
    ]
    return a + b + distances[_hash("wrong", seed, a, b) % len(distances)]


def _hash(*parts: int | str) -> int:
    digest = blake2b(" ".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")
