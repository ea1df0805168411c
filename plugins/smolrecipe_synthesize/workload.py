"""What a stage has models write, as far as options tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from smolrecipe import Generation, Source, Use, Workload
from smolrecipe_synthesize.options import SynthesizeOptions


def workload_of(options: SynthesizeOptions, parents: Mapping[str, Workload]) -> Workload:
    """Answers and tokens, where every source says how many rows it has; hours and cost where every model does.

    Tokens are those of answers that are all as long as they may be: an upper bound. A conversation of several turns
    counts as one, for its turns are not known before it is read.
    """
    models = [options.teacher, *([] if options.rejected is None else [options.rejected])]
    prompts = _sum(_rows(use) for use in options.prompts.values())
    if prompts is None:
        return Workload(generates=Generation())
    tokens = {id(use): prompts * use.options.max_new_tokens for use in models}
    hours = _sum(use.component.hours(use.options, tokens[id(use)]) for use in models)
    return Workload(
        generates=Generation(
            answers=prompts * len(models),
            tokens=sum(tokens.values()),
            hours=None if hours is None else hours / options.processes,
            cost=_sum(use.component.cost(use.options, tokens[id(use)]) for use in models),
        )
    )


def _rows(use: Use[Source]) -> int | None:
    rows = getattr(use.options, "rows", None)
    return rows if isinstance(rows, int) else None


def _sum(numbers: Iterable[float | int | None]) -> int | float | None:
    found = list(numbers)
    return None if None in found else sum(number for number in found if number is not None)
