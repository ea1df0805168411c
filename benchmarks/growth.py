"""How start-up, memory and the time of a step grow: with stages, layers, sources, documents and ranks.

    python benchmarks/growth.py [stages] [layers] [sources] [documents] [ranks]

Each curve gets the exponent of its upper decade: 1 where twice the size takes twice as much. A table and a picture
``results/growth-<subject>.png`` each, beside lines of slope 1. Times are the processor's.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import growth_data
import growth_models
from growth_curves import HEAD, draw, growth_of
from measuring import RESULTS, keep, print_table
from planted import publish_stages
from startup import start_ours

STAGES = (1, 10, 100, 200, 500, 1000)

Measured = Mapping[int, Mapping[str, float]]
"""What was measured, by size and name."""


class Subject(NamedTuple):
    """What grows, in the words of the tables, and how it is measured."""

    title: str
    size: str
    measure: Callable[[], Measured]


def stages() -> Measured:
    """``validate``, ``plan`` and ``run`` of recipes whose every stage is published."""
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        published = publish_stages(Path(temporary), max(STAGES))
        for number in STAGES:
            found[number] = {}
            for command in ("validate", "plan", "run"):
                runs = [] if command == "validate" else published.runs
                arguments = [command, str(published.recipe(number)), *runs]
                taken = [start_ours(arguments, published.environment) for _ in range(3)]
                found[number] |= {
                    f"{command}, ms": 1e3 * median(each.processor for each in taken),
                    f"{command}, MiB": median(each.memory for each in taken),
                }
    return found


def ranks() -> Measured:
    """What a rank's rows take, and ``plan --dry-run``."""
    rows, planned = growth_data.ranks_rows(), growth_models.ranks_plan()
    return {number: {**rows[number], **planned.get(number, {})} for number in rows}


SUBJECTS = {
    "stages": Subject("Commands by the number of stages, all published", "stages", stages),
    "layers": Subject("A stage by the layers of its model", "layers", growth_models.layers),
    "sources": Subject("A mixture by its sources", "sources", growth_data.sources),
    "documents": Subject("A mixture of one source by its documents of 8 tokens", "documents", growth_data.documents),
    "ranks": Subject("A rank's rows, and plan --dry-run, by the number of ranks", "ranks", ranks),
}


def main() -> None:
    """Measure, print, draw."""
    for name in sys.argv[1:] or SUBJECTS:
        subject = SUBJECTS[name]
        measured = subject.measure()
        curves = {
            what: {size: found[what] for size, found in measured.items() if what in found}
            for what in dict.fromkeys(what for found in measured.values() for what in found)
        }
        rows = [(size, *(found.get(what, "") for what in curves)) for size, found in measured.items()]
        exponents = growth_of(curves)
        kept = [dict(zip(HEAD, row, strict=True)) for row in exponents]
        keep(f"growth-{name}", subject.title, (subject.size, *curves), rows, exponents=kept)
        print_table("", HEAD, exponents)
        draw(RESULTS / f"growth-{name}.png", subject.title, subject.size, _panels(curves))


def _panels(curves: Mapping[str, Mapping[int, float]]) -> Sequence[tuple[str, Mapping[str, Mapping[int, float]]]]:
    """Curves by their unit, which is behind the last comma of their name."""
    panels: dict[str, dict[str, Mapping[int, float]]] = {}
    for what, points in curves.items():
        name, _, unit = what.rpartition(", ")
        panels.setdefault(unit, {})[name] = points
    return list(panels.items())


if __name__ == "__main__":
    main()
