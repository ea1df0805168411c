"""What can be said of the options before anything runs, without an engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal

from smolrecipe import Problem, Use
from smolrecipe.options import walk
from smolrecipe_synthesize.options import CHAT_ROWS, PREFERENCE_ROWS, SynthesizedOptions, SynthesizeOptions

if TYPE_CHECKING:
    from smolrecipe.planning.plan import Plan

_TAKEN = {
    "prompts": "are no prompts",
    "teacher": "the teacher refuses",
    "rejected": "the other model refuses, or answers alike",
}
_MODES = {"chat": "chat", "preference": "pairs"}


def products(options: SynthesizeOptions) -> Mapping[str, Literal[True] | str]:
    """Chats, or preference pairs."""
    return {PREFERENCE_ROWS if options.mode == "pairs" else CHAT_ROWS: True}


def check(options: SynthesizeOptions) -> Iterator[str]:
    """Models that the mode does not fit, and prompts that are none."""
    if not options.prompts:
        yield "'prompts' names no source"
    if options.mode == "pairs" and options.rejected is None:
        yield "'mode' is pairs, which takes a model whose answers are rejected: give 'rejected'"
    if options.mode == "chat" and options.rejected is not None:
        yield "'rejected' is for mode: pairs, and 'mode' is chat: give 'mode: pairs', or remove 'rejected'"
    if options.mode == "pairs" and options.turns == "every":
        yield "'turns' is every, but a pair has one prompt and an answer of each model: give 'turns: last'"
    for name in options.filters:
        if name in _TAKEN:
            yield f"'filters.{name}': rows that {_TAKEN[name]} are counted under that name already: choose another"
    if options.rejected == options.teacher and options.teacher.options.temperature == 0:
        yield "'rejected' is the same model as 'teacher' with the same settings, so that all answers are the same"


def check_plan(plan: Plan) -> Iterator[Problem]:
    """Yield a problem for each source whose shape is not that of the stage that it reads."""
    for stage in plan.stages:
        for path, value, _ in walk(stage.use, ("stages", stage.name)):
            if not isinstance(value, Use) or not isinstance(value.options, SynthesizedOptions):
                continue
            options = value.options
            made = plan.by_name[options.from_.stage].use.options
            if isinstance(made, SynthesizeOptions) and made.mode != _MODES[options.yields]:
                shape = next(shape for shape, mode in _MODES.items() if mode == made.mode)
                yield Problem(
                    f"source 'synthesized' yields {options.yields} rows with these options, and stage "
                    f"'{options.from_.stage}' makes {shape} rows (mode: {made.mode}): give 'yields: {shape}'",
                    plan.recipe.place((*path, "yields")),
                )
