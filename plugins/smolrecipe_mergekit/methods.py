"""What mergekit's merge methods take, so that a recipe can be checked without importing mergekit (five seconds).

A test holds this table against the installed mergekit. mergekit itself ignores a misspelt parameter, and a weight that
it does not use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from attrs import frozen

from smolrecipe import near_miss
from smolrecipe_mergekit.options import MemberOptions, MergeOptions

Base = Literal["required", "optional", "ignored", "forbidden"]


@frozen(kw_only=True)
class Method:
    """A merge method's parameters and what it asks of its inputs.

    ``inputs`` bounds the number of models, the base among them where the method uses one; ``members`` bounds those
    besides the base.
    """

    name: str
    base: Base = "ignored"
    per_model: frozenset[str] = frozenset()
    shared: frozenset[str] = frozenset()
    required: frozenset[str] = frozenset()
    base_has_parameters: bool = True
    inputs: tuple[int, int | None] = (1, None)
    members: tuple[int | None, int | None] = (None, None)


def _differences(name: str, *per_model: str) -> Method:
    """A method that adds weighted differences from a base to that base."""
    return Method(
        name=name,
        base="required",
        per_model=frozenset({"weight", "density", *per_model}),
        shared=frozenset({"int8_mask", "normalize", "rescale", "lambda"}),
        required=frozenset({"weight"}),
        base_has_parameters=False,
    )


METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method(
            name="linear",
            per_model=frozenset({"weight"}),
            shared=frozenset({"normalize"}),
            required=frozenset({"weight"}),
        ),
        Method(name="slerp", base="required", shared=frozenset({"t"}), required=frozenset({"t"}), inputs=(2, 2)),
        Method(name="nearswap", base="required", shared=frozenset({"t"}), required=frozenset({"t"}), inputs=(2, 2)),
        Method(
            name="nuslerp",
            base="optional",
            per_model=frozenset({"weight"}),
            shared=frozenset({"nuslerp_row_wise", "nuslerp_flatten"}),
            required=frozenset({"weight"}),
            base_has_parameters=False,
            members=(2, 2),
        ),
        Method(
            name="multislerp",
            base="optional",
            per_model=frozenset({"weight"}),
            shared=frozenset({"normalize_weights", "eps"}),
            required=frozenset({"weight"}),
            base_has_parameters=False,
            members=(1, None),
        ),
        _differences("task_arithmetic"),
        _differences("ties"),
        _differences("dare_ties"),
        _differences("dare_linear"),
        _differences("breadcrumbs", "gamma"),
        _differences("breadcrumbs_ties", "gamma"),
        _differences("della", "epsilon"),
        _differences("della_linear", "epsilon"),
        Method(name="sce", base="required", shared=frozenset({"int8_mask", "select_topk"})),
        Method(name="ram", base="required", shared=frozenset({"epsilon"})),
        Method(name="ramplus_tl", base="required", shared=frozenset({"r", "alpha", "epsilon"})),
        Method(name="model_stock", base="required", shared=frozenset({"filter_wise"}), inputs=(3, None)),
        Method(name="arcee_fusion", base="required", inputs=(2, 2)),
        Method(name="karcher", shared=frozenset({"max_iter", "tol"})),
        Method(name="passthrough", per_model=frozenset({"scale"}), inputs=(1, 1)),
    )
}

_DIVIDES_BY_SUM = {"linear": "normalize", "multislerp": "normalize_weights"}


def uses_base(method: Method, options: MergeOptions) -> bool:
    """Whether the base's weights enter the merge as the point that differences are taken from.

    A method that can do with or without a base takes one that is not itself among the models.
    """
    if method.base == "required":
        return True
    return method.base == "optional" and all(member.from_ != options.base for member in options.models)


def problems(method: Method, options: MergeOptions) -> Iterator[str]:
    """Sentences about what mergekit would refuse late, or not notice, in the options of a merge by ``method``."""
    yield from _members(method, options)
    yield from _parameters(method, options)
    yield from _weights(method, options)


def _members(method: Method, options: MergeOptions) -> Iterator[str]:
    names = [str(member.from_) for member in options.models]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"'models' names '{name}' {names.count(name)} times: give it once, with the sum of its weights"
    inputs = set(names) | ({str(options.base)} if uses_base(method, options) else set())
    members = inputs - {str(options.base)} if uses_base(method, options) else inputs
    if len(inputs) < 2 and method.inputs[1] != 1:
        yield f"a merge needs at least two models, not {len(inputs)}: {', '.join(sorted(inputs)) or 'none'}"
        return
    for what, found, (low, high) in (
        ("models, the base included", inputs, method.inputs),
        ("models besides the base", members, method.members),
    ):
        if (low is not None and len(found) < low) or (high is not None and len(found) > high):
            wanted = f"exactly {low}" if low == high else f"at least {low}" if high is None else f"at most {high}"
            yield f"method '{method.name}' merges {wanted} {what}, not {len(found)}: {', '.join(sorted(found))}"


def _parameters(method: Method, options: MergeOptions) -> Iterator[str]:
    known = method.per_model | method.shared
    if options.normalize is not None and "normalize" not in method.shared:
        yield f"method '{method.name}' has no 'normalize'{_known(known)}"
    if options.normalize is not None and "normalize" in options.parameters:
        yield "'normalize' is given twice, as an option and under 'parameters'"
    for key in options.parameters:
        if key not in known:
            yield f"method '{method.name}' has no parameter '{key}'{near_miss(key, known) or _known(known)}"
    for member in options.models:
        yield from _member_parameters(method, options, member)


def _member_parameters(method: Method, options: MergeOptions, member: MemberOptions) -> Iterator[str]:
    given = set(member.parameters)
    if member.weight is not None:
        if "weight" in given:
            yield f"the weight of '{member.from_}' is given twice, as 'weight' and under 'parameters'"
        given.add("weight")
    for key in sorted(given):
        if key in method.shared:
            yield f"'{key}' of '{member.from_}': '{method.name}' takes it for the whole merge, under 'parameters'"
        elif key not in method.per_model:
            hint = near_miss(key, method.per_model) or _known(method.per_model, "per model it takes")
            yield f"method '{method.name}' has no parameter '{key}', given for '{member.from_}'{hint}"
        elif not method.base_has_parameters and member.from_ == options.base and uses_base(method, options):
            yield (
                f"'{key}' of '{member.from_}' has no effect: it is the base, from which method '{method.name}' takes "
                "the differences of the others"
            )
    if not method.base_has_parameters and member.from_ == options.base and uses_base(method, options):
        return
    for key in sorted((method.required & method.per_model) - given - set(options.parameters)):
        yield f"method '{method.name}' needs '{key}' for '{member.from_}'"


def _weights(method: Method, options: MergeOptions) -> Iterator[str]:
    for key in sorted((method.required & method.shared) - set(options.parameters)):
        yield f"method '{method.name}' needs '{key}' under 'parameters'"
    weights = weights_of(options)
    if "weight" not in method.per_model or not weights:
        return
    if all(weight == 0 for weight in weights.values()):
        yield "every weight is 0: nothing is left to merge"
    elif sum(weights.values()) == 0 and normalizes(method, options):
        yield f"the weights of {', '.join(weights)} sum to 0, and the merge divides by their sum: all would be NaN"


def weights_of(options: MergeOptions) -> dict[str, float]:
    """The weight of each model, by stage, where every model has one plain number; otherwise nothing."""
    shared = options.parameters.get("weight")
    values = {
        str(member.from_): next(
            (value for value in (member.weight, member.parameters.get("weight"), shared) if value is not None), None
        )
        for member in options.models
    }
    if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values.values()):
        return {}
    return {name: float(value) for name, value in values.items()}  # type: ignore[arg-type]


def normalizes(method: Method, options: MergeOptions) -> bool:
    """Whether the merge divides by the plain sum of the weights."""
    key = _DIVIDES_BY_SUM.get(method.name)
    if key is None:
        return False
    given = options.parameters.get(key, True)
    return bool(given) if options.normalize is None or key != "normalize" else options.normalize


def _known(names: frozenset[str], words: str = "it takes") -> str:
    return f"; {words} {', '.join(sorted(names))}" if names else "; it takes none"
