"""Sweeps: one recipe, several values for some of its keys, a variant for every combination.

``--sweep KEY=V1,V2`` on the command line or a block at the top of a recipe, paths as ``--set`` writes them::

    sweep:
      stages.apo.loss: [{use: apo_zero, beta: 0.05}, {use: dpo, beta: 0.1}]
      stages.apo.optimizer.lr: [1.0e-6, 5.0e-7]

A value is laid over the recipe as ``--set`` would lay it: where it brings another ``use:``, the options of the
component that it replaces go, and are told. ``--set`` inside what is swept holds in every variant.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attrs import frozen

from smolrecipe.errors import Place, Problem, RecipeError, near_miss
from smolrecipe.recipe.nodes import Node, plain
from smolrecipe.recipe.read import read_value
from smolrecipe.recipe.settings import found, lay_over, origin, parse_setting, path_problem, split_key
from smolrecipe.recipe.sweep_names import name_variants
from smolrecipe.recipe.wording import refusal

SWEEP = "sweep"
_SWEPT = ("stages", "model")
"""Where the values lie that change a result."""
_MOST_VARIANTS = 1000
_MOST_AXES = 32


@frozen(kw_only=True)
class Variant:
    """One combination of swept values, laid over the recipe."""

    name: str
    labels: Mapping[str, str]
    """For each key in the variant's name how it says the value: ``loss.use=dpo``."""
    values: Mapping[str, Any]
    """For each swept key its value, as plain data."""
    node: Node
    dropped: tuple[Problem, ...] = ()
    """What the variant does not take over from the recipe, because it belongs to a component that it replaces."""


@frozen(kw_only=True)
class _Axis:
    key: str
    names: tuple[str, ...]
    values: tuple[Node, ...]
    place: Place

    @property
    def covers(self) -> tuple[str, ...]:
        """The mapping whose content a value may replace: that around a ``use``, otherwise the value itself."""
        return self.names[:-1] if self.names[-1] == "use" else self.names


def variants_of(base: Node, settings: Sequence[str] = (), sweeps: Sequence[str] = ()) -> list[Variant]:
    """The variants of a recipe, composed with ``settings``: of its ``sweep:`` block, and of the ``key=value,value`` in
    ``sweeps``.

    A key in ``sweeps`` replaces that key of the block. Without either there are none.

    Raises:
        RecipeError: for a sweep of nothing: all problems of the axes at once.
    """
    problems: list[Problem] = []
    axes = {axis.key: axis for axis in [*_written(base, problems), *_given(sweeps, problems)]}
    laid = [parse_setting(setting) for setting in settings]
    if too_large := list(_size_problems(list(axes.values()))):  # before values are compared with each other
        raise refusal([*problems, *too_large])
    for axis in axes.values():
        problems.extend(_axis_problems(axis, base, [names for names, _ in laid]))
    if problems:
        raise refusal(problems)
    if not axes:
        return []
    chosen = [
        dict(zip(axes, values, strict=True)) for values in itertools.product(*(axis.values for axis in axes.values()))
    ]
    values = [{key: plain(node) for key, node in choice.items()} for choice in chosen]
    names = name_variants(values)
    return [
        _variant(base, axes, choice, value, name, labels, laid)
        for choice, value, (name, labels) in zip(chosen, values, names, strict=True)
    ]


def _variant(
    base: Node,
    axes: Mapping[str, _Axis],
    choice: Mapping[str, Node],
    values: Mapping[str, Any],
    name: str,
    labels: Mapping[str, str],
    settings: Sequence[tuple[tuple[str, ...], Node]],
) -> Variant:
    assert isinstance(base.value, dict)
    content = {key: child for key, child in base.value.items() if key != SWEEP}
    node = Node(content, base.place, base.key_places)
    dropped: list[Problem] = []
    # What replaces a mapping comes before what is set inside it, in whichever order both were given.
    for axis in sorted(axes.values(), key=lambda axis: (len(axis.covers), axis.names[-1] == "use")):
        value = choice[axis.key]
        inside = {names[len(axis.covers)] for names in _set_inside(axis, settings, axes)}
        dropped.extend(_dropped(node, axis, value, inside))
        node = lay_over(node, axis.names, value, value.place)
        for names, setting in settings:
            if len(names) > len(axis.covers) and names[: len(axis.covers)] == axis.covers:
                node = lay_over(node, names, setting, setting.place)
    return Variant(name=name, labels=labels, values=values, node=node, dropped=tuple(dropped))


def _written(base: Node, problems: list[Problem]) -> Iterator[_Axis]:
    """The axes of the recipe's ``sweep:`` block."""
    block = base.value.get(SWEEP) if isinstance(base.value, dict) else None
    if block is None:
        return
    if not isinstance(block.value, dict):
        problems.append(Problem("'sweep' maps the path of each swept value to a list of values", block.place))
        return
    for key, node in block.value.items():
        place = block.key_places.get(key, node.place)
        names = split_key(key)
        if names is None:
            problems.append(Problem(f"'{key}' is no path of a value, such as stages.apo.loss.use", place))
        elif wrong := path_problem(names):
            problems.append(Problem(wrong, place))
        elif not isinstance(node.value, list) or not node.value:
            problems.append(Problem(f"'{key}' in 'sweep' must be a list of at least one value", place))
        else:
            yield _Axis(key=key, names=names, values=tuple(node.value), place=place)


def _given(sweeps: Sequence[str], problems: list[Problem]) -> Iterator[_Axis]:
    """The axes of the command line. Values are split where YAML splits a flow sequence: at top-level commas."""
    seen = set()
    for sweep in sweeps:
        key, equals, text = sweep.partition("=")
        names = split_key(key)
        place = Place(f"--sweep {origin(key)}")
        if not equals or names is None or not text.strip():
            problems.append(Problem("write it as key.subkey=value,value", place))
            continue
        if wrong := path_problem(names):
            problems.append(Problem(wrong, place))
            continue
        if key in seen:
            problems.append(Problem(f"'{key}' is swept twice: give all its values at once, with commas", place))
            continue
        seen.add(key)
        try:
            values = read_value(f"[{text}]", str(place))
        except RecipeError:
            problems.append(
                Problem(
                    f"'{text}' is no list of YAML values with commas between them: is a bracket or quote open?", place
                )
            )
            continue
        assert isinstance(values.value, list)
        yield _Axis(key=key, names=names, values=tuple(values.value), place=place)


def _size_problems(axes: Sequence[_Axis]) -> Iterator[Problem]:
    """Why the sweep is larger than anybody could run."""
    if len(axes) > _MOST_AXES:
        yield Problem(f"the sweep has {len(axes):,} keys, {_MOST_AXES} at most: sweep fewer", axes[_MOST_AXES].place)
        return
    count = math.prod(len(axis.values) for axis in axes)
    if count > _MOST_VARIANTS:
        shown = f"{count:,}" if count < 10**15 else f"about 10^{round(math.log10(count))}"
        what = f"the sweep has {shown} variants, {_MOST_VARIANTS:,} at most: give it fewer values"
        yield Problem(what, max(axes, key=lambda axis: len(axis.values)).place)


def _axis_problems(axis: _Axis, base: Node, settings: Sequence[tuple[str, ...]]) -> Iterator[Problem]:
    first, *rest = axis.names
    if first not in _SWEPT:
        hint = near_miss(first, _SWEPT)
        yield Problem(f"'{axis.key}' cannot be swept: only what lies under 'stages' or 'model' can{hint}", axis.place)
    elif not rest:
        yield Problem(f"'{axis.key}' is all of it: name one value in it, such as stages.apo.loss.use", axis.place)
    elif first == "stages" and len(rest) > 1 and rest[0] not in (stages := _stages(base)):
        hint = near_miss(rest[0], stages) or f"; stages: {', '.join(stages)}"
        yield Problem(f"'{axis.key}' names no value: there is no stage '{rest[0]}'{hint}", axis.place)
    written = [json.dumps(plain(value), sort_keys=True) for value in axis.values]
    for twice in dict.fromkeys(value for value in written if written.count(value) > 1):
        yield Problem(f"'{axis.key}' has the value {twice} twice", axis.place)
    if axis.names in settings:
        yield Problem(f"'{axis.key}' is both swept and set by --set: leave one of them out", axis.place)


def _stages(base: Node) -> list[str]:
    stages = base.value.get("stages") if isinstance(base.value, dict) else None
    return list(stages.value) if stages is not None and isinstance(stages.value, dict) else []


def _set_inside(
    axis: _Axis, settings: Sequence[tuple[tuple[str, ...], Node]], axes: Mapping[str, _Axis]
) -> Iterator[tuple[str, ...]]:
    """Paths inside what ``axis`` replaces that ``--set`` or another axis gives anyway."""
    for names in [*(names for names, _ in settings), *(other.names for other in axes.values())]:
        if len(names) > len(axis.covers) and names[: len(axis.covers)] == axis.covers:
            yield names


def _dropped(node: Node, axis: _Axis, value: Node, given: set[str]) -> Iterator[Problem]:
    """A sentence for each option that the recipe gives to a component which ``value`` replaces by another."""
    before = _find(node, axis.covers)
    if before is None or not isinstance(before.value, dict) or "use" not in before.value:
        return
    after: Node | None = value
    if axis.names == axis.covers:
        after = value.value.get("use") if isinstance(value.value, dict) else None
    old = before.value["use"].value
    if after is None or after.value == old:
        return
    own = set(value.value) if isinstance(value.value, dict) else set()
    for key, child in before.value.items():
        if key == "use" or key in own | given:
            continue
        yield Problem(
            f"{key}={json.dumps(plain(child))} of '{old}' is not taken over by '{after.value}' "
            f"(--set {'.'.join((*axis.covers, key))}=... gives it to every variant)",
            before.key_places.get(key, child.place),
        )


def _find(node: Node, names: tuple[str, ...]) -> Node | None:
    """The node at a path; a stage's own model lies over the recipe's."""
    there = found(node, names)
    if there is None and names[:1] == ("stages",) and names[2:3] == ("model",):
        return _find(node, names[2:])
    return there
