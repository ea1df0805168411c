"""Published numbers against those that their samples give."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any


def compare(task: str, told: Mapping[str, Any], expected: Mapping[str, float], relative: float) -> Iterator[str]:
    """A sentence for each number of a score that is not the one expected."""
    for key, value in expected.items():
        if told.get(key) is None or not math.isclose(told[key], value, rel_tol=relative, abs_tol=1e-12):
            yield f"'{task}': {key} is {told.get(key)}, and {value:.4g} of the published samples"
