"""What is wrong with the options of an evaluation, before anything runs: light."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from smolrecipe import Problem, Source, Use, Workload
from smolrecipe_lm_eval.options import RULER_OFFLINE, EvaluateOptions, RulerOptions

if TYPE_CHECKING:
    from smolrecipe.planning.plan import Plan


def check_options(options: EvaluateOptions) -> Iterator[str]:
    """Nothing to evaluate, names that would be confused, sources of the wrong shape, RULER without its data."""
    if not options.models:
        yield "'models' is empty: there is nothing to evaluate"
    if not (options.problems or options.texts or options.held_out or options.ruler or options.tasks):
        yield "none of 'problems', 'texts', 'held_out', 'ruler' and 'tasks' is given: there is nothing to evaluate with"
    yield from _repeated("models", [str(ref) for ref in options.models])
    for name in sorted(set(options.problems) & set(options.tasks)):
        yield f"'{name}' is both under 'problems' and under 'tasks': give the problems another name"
    yield from _wrong_shapes("problems", "problem", options.problems)
    yield from _wrong_shapes("texts", "text", options.texts)
    if options.ruler is not None:
        yield from _ruler(options.ruler, options.download)
    if options.enable_thinking is not None and not options.apply_chat_template:
        yield "'enable_thinking' is told to the chat template, and 'apply_chat_template' is not set: set it too"
    if options.generation.arguments and not options.tasks:
        yield "'generation' is for lm-eval's own tasks, and 'tasks' has none: it would have no effect"


def _repeated(option: str, names: list[str]) -> Iterator[str]:
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"'{option}' names '{name}' more than once"


def _wrong_shapes(option: str, wanted: str, uses: Mapping[str, Use[Source]]) -> Iterator[str]:
    for name, use in uses.items():
        shape = use.component.yields(use.options)
        if shape != wanted:
            yield f"source '{name}' ({use.name}) yields {shape} rows, but '{option}' needs {wanted} rows"


def _ruler(ruler: RulerOptions, download: bool) -> Iterator[str]:
    if not ruler.lengths:
        yield "'ruler.lengths' is empty: RULER's contexts are made to a length"
    if not ruler.tasks:
        yield "'ruler.tasks' is empty: leave it out for those that need no download"
    yield from (f"'ruler.lengths': {length} is no number of tokens" for length in ruler.lengths if length < 1)
    yield from _repeated("ruler.lengths", [str(length) for length in ruler.lengths])
    yield from _repeated("ruler.tasks", [*ruler.tasks])
    fetched = [task for task in ruler.tasks if task not in RULER_OFFLINE]
    if fetched and not download:
        yield (
            f"'ruler.tasks': {', '.join(fetched)} of RULER fetch essays or questions, and 'download' is not set: set "
            f"it, or keep to those that need none ({', '.join(RULER_OFFLINE)})"
        )


def what_is_missing(options: EvaluateOptions) -> Iterator[str]:
    """Packages that RULER takes besides lm-eval's own."""
    absent = [name for name in ("wonderwords", "nltk", "scipy") if importlib.util.find_spec(name) is None]
    if options.ruler is not None and absent:
        yield f"'ruler' needs {', '.join(absent)}; install with: pip install 'smolrecipe[eval]'"


def lengths_that_no_model_takes(plan: Plan) -> Iterator[Problem]:
    """Yield a problem for each context length that an evaluated model has not the positions for, as far as options
    tell.
    """
    known: dict[str, Workload] = {}
    for stage in plan.stages:
        ask = stage.use.component.workload
        parents = {name: known[name] for name in stage.parents}
        known[stage.name] = ask(stage.use.options, parents) if ask is not None else Workload()
        options = stage.use.options
        if not isinstance(options, EvaluateOptions):
            continue
        for index, ref in enumerate(options.models):
            most = (known[ref.stage].model or {}).get("max_position_embeddings")
            for wanted, what in _tokens_wanted(options):
                if isinstance(most, int) and wanted > most:
                    yield Problem(
                        f"stage '{stage.name}': {what} of {wanted} tokens, and the model of '{ref}' takes {most}",
                        plan.recipe.place(("stages", stage.name, "models", index)),
                    )


def _tokens_wanted(options: EvaluateOptions) -> Iterator[tuple[int, str]]:
    for length in options.ruler.lengths if options.ruler is not None else ():
        yield length, "'ruler.lengths' has contexts"
    if options.tasks and options.generation.max_new_tokens is not None:
        yield options.generation.max_new_tokens + 1, "'generation.max_new_tokens' asks with a prompt for sequences"
    if options.problems:
        yield options.max_new_tokens + 1, "'max_new_tokens' asks with a prompt for sequences"
