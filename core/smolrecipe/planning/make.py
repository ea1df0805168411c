"""Making a plan: order the stages, check what each consumes, ask every component, compute digests."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

from smolrecipe.catalog import Catalog
from smolrecipe.components import KINDS
from smolrecipe.errors import Problem, near_miss
from smolrecipe.options import Model, walk
from smolrecipe.planning.digest import UnreadableDataError, stage_digest
from smolrecipe.planning.plan import Plan, PlannedStage, Reference, references
from smolrecipe.recipe.recipe import Recipe
from smolrecipe.recipe.structure import all_uses
from smolrecipe.recipe.wording import MOST_PROBLEMS, refusal

_FIRST_WORD = re.compile(r"'?([a-z_]+(?:\.[\w-]+)*)'?")


def make_plan(recipe: Recipe, catalog: Catalog, hook: Any) -> Plan:
    """The plan of ``recipe``; ``hook`` is the plugin manager's, whose ``smolrecipe_check_plan`` is asked at the end.

    Raises:
        RecipeError: with every problem: unknown stages, cycles, artifacts that nobody produces, what components refuse.
    """
    refs = {name: references(name, use) for name, use in recipe.stages.items()}
    problems = [*_unknown_stages(recipe, refs), *_component_problems(recipe), *_order_problems(recipe)]
    order = _order(recipe, refs, problems)
    produces = {name: use.component.produces(use.options) for name, use in recipe.stages.items()}
    problems += _unproduced(recipe, refs, produces)
    if problems:
        raise refusal(problems)
    stages: dict[str, PlannedStage] = {}
    for name in order:
        use = recipe.stages[name]
        parents = {reference.ref.stage: stages[reference.ref.stage].digest for reference in refs[name]}
        try:
            digest = stage_digest(use, parents, catalog)
        except UnreadableDataError as error:
            problems.append(Problem(f"stage '{name}': {error}", recipe.place(("stages", name, *error.path))))
            digest = ""
        stages[name] = PlannedStage(
            name=name,
            use=use,
            references=refs[name],
            devices=use.component.devices(use.options),
            produces=produces[name],
            digest=digest,
            place=recipe.place(("stages", name)),
        )
    if problems:
        raise refusal(problems)
    plan = Plan(recipe=recipe, stages=tuple(stages.values()))
    found = [problem for answer in hook.smolrecipe_check_plan(plan=plan) for problem in answer]
    if found:
        raise refusal(found)
    return plan


def _unknown_stages(recipe: Recipe, refs: Mapping[str, tuple[Reference, ...]]) -> list[Problem]:
    problems: list[Problem] = []
    for name, own in refs.items():
        for reference in own:
            wanted = reference.ref.stage
            if wanted in recipe.stages:
                continue
            others = [other for other in recipe.stages if other != name]
            hint = near_miss(wanted, others) or f"; stages: {', '.join(others) or 'none but this'}"
            what = f"stage '{name}' refers to '{wanted}', which is no stage{hint}"
            problems.append(Problem(what, recipe.place(reference.path)))
            if len(problems) > MOST_PROBLEMS:
                return problems
    return problems


def _order(recipe: Recipe, refs: Mapping[str, tuple[Reference, ...]], problems: list[Problem]) -> list[str]:
    """Stage names, parents first; stages that do not depend on each other in the recipe's order.

    None, and a problem more, where stages wait for each other.
    """
    graph = {
        name: [reference.ref.stage for reference in own if reference.ref.stage in refs] for name, own in refs.items()
    }
    sorter = TopologicalSorter(graph)
    try:
        sorter.prepare()
    except CycleError as error:
        cycle = error.args[1][::-1]
        what = (
            f"the stages wait for each other: {' -> '.join(cycle)}" if len(cycle) > 2 else "the stage waits for itself"
        )
        problems.append(Problem(what, recipe.place(("stages", cycle[0]))))
        return []
    rank = {name: index for index, name in enumerate(recipe.stages)}
    order: list[str] = []
    ready: list[tuple[int, str]] = []
    while sorter.is_active():
        for name in sorter.get_ready():
            heapq.heappush(ready, (rank[name], name))
        _, first = heapq.heappop(ready)
        order.append(first)
        sorter.done(first)
    return order


def _component_problems(recipe: Recipe) -> Iterator[Problem]:
    for path, use in all_uses(recipe):
        who = f"{KINDS[type(use.component)]} '{use.name}'"
        try:
            for message in use.component.check(use.options):
                yield Problem(f"{who}: {message}", recipe.place((*path, *_option_in(message))))
        except OSError as error:  # something that an option names, and that may not even be looked at
            reason = f"{error.filename or 'a file'} cannot be read ({error.strerror or error})"
            yield Problem(f"{who}: {reason}", recipe.place(path))


def _option_in(message: str) -> tuple[str, ...]:
    """The option that a message begins with, if it begins with one: ``'data.web': ...``, ``steps (3) is ...``."""
    word = _FIRST_WORD.match(message)
    return tuple(word.group(1).split(".")) if word else ()


def _order_problems(recipe: Recipe) -> Iterator[Problem]:
    """Model components that are listed before one whose work they build on."""
    for name, stage in recipe.stages.items():
        for path, model, _ in walk(stage, ("stages", name)):
            if not isinstance(model, Model):
                continue
            seen: set[str] = set()
            for key, use in reversed(list(model.components.items())):
                for early in seen & set(use.component.after):
                    yield Problem(
                        f"model component '{use.name}' builds on what '{early}' sets and is listed before it: "
                        f"list '{early}' first",
                        recipe.place((*path, key)),
                    )
                seen.add(use.name)


def _unproduced(
    recipe: Recipe, refs: Mapping[str, tuple[Reference, ...]], produces: Mapping[str, Mapping[str, Any]]
) -> Iterator[Problem]:
    for name, own in refs.items():
        for reference in own:
            wanted, checkpoint = reference.ref.stage, reference.ref.checkpoint
            if wanted not in produces or not reference.needs:
                continue
            offered = produces[wanted]
            if any(offered.get(f"{need}@{checkpoint}" if checkpoint else need) is True for need in reference.needs):
                continue
            place = recipe.place(reference.path)
            if checkpoint and any(offered.get(need) is True for need in reference.needs):
                known = [
                    what.partition("@")[2]
                    for what in offered
                    if what.startswith(tuple(f"{n}@" for n in reference.needs))
                ]
                yield Problem(
                    f"'{wanted}' publishes no checkpoint '{checkpoint}'; it publishes: {', '.join(known) or 'none'}",
                    place,
                )
                continue
            kind = recipe.stages[wanted].component.name
            reasons = [str(offered[need]) for need in reference.needs if offered.get(need)]
            reason = "; ".join(reasons) or f"stage kind '{kind}' produces {', '.join(offered) or 'nothing'}"
            needs = " or ".join(map(_words, reference.needs))
            yield Problem(f"stage '{name}' needs a {needs} from '{wanted}', which has none: {reason}", place)


def _words(needs: str) -> str:
    return {
        "hf-model": "Hugging Face checkpoint",
        "tokens": "set of token files",
        "chat-rows": "set of chats",
        "preference-rows": "set of preference pairs",
    }.get(needs, needs)
