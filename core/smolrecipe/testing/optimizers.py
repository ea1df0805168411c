"""What an optimizer must hold: groups that fit both engines, steps that obey their groups, state that resumes exactly.

It is built as the engines build it and trains a tiny SmolLM3's worth of parameters. How it computes a step is its own
affair; that one at rate 0 changes nothing is not, because engines make such a step to create its state.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch  # noqa: TID253
from torch import Tensor, nn  # noqa: TID253

from smolrecipe.components import Optimizer, ParameterGroup
from smolrecipe.testing import optimizer_rates
from smolrecipe.testing.contract import Check, broken
from smolrecipe.testing.optimizer_shards import two_devices
from smolrecipe.testing.parameters import built, group_of, names, settings_by_group, tiny_weights
from smolrecipe.testing.tiny_training import STEPS, Training, given_gradients, no_gradients


def checks(component: Optimizer, options: Any) -> Iterator[Check]:
    """The checks of an optimizer with the options of its example."""
    every: list[tuple[str, Callable[[Optimizer, Any], None]]] = [
        ("its groups have patterns and rates", _check_groups),
        ("every SmolLM3 parameter has a group", _check_covered),
        ("both engines' names mean the same settings", _check_engines_agree),
        ("it is built from its groups", _check_built),
        ("a step needs no closure", _check_closure),
        ("every weight moves", _check_moves),
        ("steps lower a loss", _check_lowers),
        ("schedules change its rate", optimizer_rates.check_schedule),
        ("each group has its own rate", optimizer_rates.check_rates),
        ("weights without a gradient stay", _check_without_gradient),
        ("it resumes bit for bit", _check_resumes),
        ("its state is there after one step", _check_state),
        ("shared weights step as whole ones", _check_shared),
    ]
    if any("weight_decay" in group.settings for group in _groups(component, options)):
        every.insert(9, ("each group has its own weight decay", optimizer_rates.check_decay))
    for name, check in every:
        yield Check(name=name, run=partial(check, component, options))


def _groups(component: Optimizer, options: Any) -> Sequence[ParameterGroup]:
    """The component's groups, none where it fails to say them, which a check of its own reports."""
    try:
        groups = list(component.groups(options))
    except Exception:
        return []
    return [group for group in groups if isinstance(group, ParameterGroup) and isinstance(group.settings, Mapping)]


def _check_groups(component: Optimizer, options: Any) -> None:
    groups = component.groups(options)
    if not isinstance(groups, Sequence) or not groups:
        broken(f"'groups' of optimizer '{component.name}' returns {groups!r}: return a list of ParameterGroup")
    for group in groups:
        if not isinstance(group, ParameterGroup) or not isinstance(group.settings, Mapping):
            broken(f"'groups' of optimizer '{component.name}' has {group!r} in it: smolrecipe.ParameterGroup is meant")
        try:
            re.compile(group.pattern)
        except re.error as error:
            broken(f"'{group.pattern}' of optimizer '{component.name}' is not a regular expression: {error}")
        rate = group.settings.get("lr")
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not (math.isfinite(rate) and rate > 0):
            broken(
                f"group '{group.pattern}' of optimizer '{component.name}' has {rate!r} as its peak learning rate: each "
                "group's settings need 'lr', a number above 0, which the schedule multiplies"
            )
    if component.groups(options) != groups:
        broken(f"'groups' of optimizer '{component.name}' differ each time they are asked for with the same options")


def _check_covered(component: Optimizer, options: Any) -> None:
    groups = component.groups(options)
    for engine, found in (("torchtitan", names().keys()), ("Hugging Face", names().values())):
        homeless = [name for name in found if group_of(name, groups) is None]
        if homeless:
            broken(
                f"optimizer '{component.name}' has no group for {len(homeless)} of SmolLM3's parameters by {engine}'s "
                f"names, such as '{homeless[0]}': end the groups with one whose pattern is '.*'"
            )


def _check_engines_agree(component: Optimizer, options: Any) -> None:
    groups = component.groups(options)
    for titan, hugging_face in names().items():
        one, two = group_of(titan, groups), group_of(hugging_face, groups)
        if one is not None and two is not None and groups[one].settings != groups[two].settings:
            broken(
                f"one parameter, two settings: optimizer '{component.name}' puts torchtitan's '{titan}' into group "
                f"'{groups[one].pattern}' and '{hugging_face}', Hugging Face's name of the same, into group "
                f"'{groups[two].pattern}': patterns must know both engines' names"
            )


def _check_built(component: Optimizer, options: Any) -> None:
    for engine, named in (("torchtitan", True), ("TRL", False)):
        parameters = {name: nn.Parameter(weight) for name, weight in tiny_weights().items()}
        wanted = settings_by_group(component, options, parameters, named)
        found = built(component, options, wanted).param_groups
        for group in wanted:
            ids = {id(parameter) for parameter in group["params"]}
            holding = [one for one in found if ids & {id(parameter) for parameter in one["params"]}]
            if len(holding) != 1 or {id(parameter) for parameter in holding[0]["params"]} != ids:
                broken(f"optimizer '{component.name}' regroups the parameters that it is given as {engine} gives them")
            for key, value in group.items():
                if key not in ("params", "param_names") and not (key in holding[0] and holding[0][key] == value):
                    broken(
                        f"optimizer '{component.name}' was built with {key}={value!r} for a group, and its "
                        f"param_groups say {holding[0].get(key)!r}: settings stay as 'groups' gives them"
                    )


def _check_closure(component: Optimizer, options: Any) -> None:
    training = Training(component, options)
    for name, gradient in given_gradients(0, training.parameters).items():
        training.parameters[name].grad = gradient
    for how, step in (
        ("step()", training.optimizer.step),
        ("step(closure=None)", partial(training.optimizer.step, closure=None)),
    ):
        try:
            step()
        except Exception as error:
            broken(
                f"{how} of optimizer '{component.name}' fails with {type(error).__name__}: {error}; engines have "
                "computed the gradients already and pass no closure: define step(self, closure=None)"
            )


def _check_moves(component: Optimizer, options: Any) -> None:
    still = [name for name, way in Training(component, options).run(given_gradients).moved().items() if way == 0]
    if still:
        broken(
            f"{STEPS} steps of optimizer '{component.name}' with gradients leave {still[0]} as it was (and "
            f"{len(still) - 1} more of the {len(tiny_weights())} parameters): nothing would be learned there"
        )


def _check_lowers(component: Optimizer, options: Any) -> None:
    """Half the squared distance from a target that lies 1 away from each weight, on average."""
    generator = torch.Generator().manual_seed(1)
    targets = {name: torch.randn(weight.shape, generator=generator) for name, weight in tiny_weights().items()}

    def downhill(step: int, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
        return {name: parameter.detach() - targets[name] for name, parameter in parameters.items()}

    training = Training(component, options)
    training.run(downhill, steps=20)
    for name, weight in training.weights().items():
        before, after = (
            0.5 * float((one - targets[name]).double().square().sum()) for one in (training.start[name], weight)
        )
        if not after < before:
            broken(
                f"20 steps of optimizer '{component.name}' along the gradient of half a squared distance take {name}'s "
                f"from {before:.6g} to {after:.6g}: it must fall (is the step's sign wrong, the example's lr too high?)"
            )


def _check_without_gradient(component: Optimizer, options: Any) -> None:
    trained = set(list(tiny_weights())[::2])

    def some(step: int, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
        return {name: value for name, value in given_gradients(step, parameters).items() if name in trained}

    try:
        ways = Training(component, options).run(some).moved()
    except AssertionError as error:
        broken(f"{error}: half of the parameters have no gradient (None), and are to be left out")
    for name, way in ways.items():
        if way and name not in trained:
            broken(f"optimizer '{component.name}' moves {name} by {way:.3g}, which has no gradient: skip it")


def _check_resumes(component: Optimizer, options: Any) -> None:
    whole = Training(component, options).run(given_gradients)
    buffer = io.BytesIO()
    try:
        torch.save(whole.optimizer.state_dict(), buffer)
        buffer.seek(0)
        state = torch.load(buffer, weights_only=True)
    except Exception as error:
        broken(
            f"the state of optimizer '{component.name}' cannot be saved and read again ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}): keep tensors, numbers, texts, lists and dictionaries in it"
        )
    resumed = Training(component, options, weights=whole.weights())
    resumed.optimizer.load_state_dict(state)
    ends = [training.run(given_gradients, first=STEPS).weights() for training in (whole, resumed)]
    for name, weight in ends[0].items():
        if not torch.equal(weight, ends[1][name]):
            broken(
                f"optimizer '{component.name}' goes on otherwise after its state was saved and loaded: {name} differs "
                f"by {float((weight - ends[1][name]).abs().max()):.3g} {STEPS} steps later; keep all that a step "
                "depends on in self.state[parameter] or in the groups"
            )


def _check_state(component: Optimizer, options: Any) -> None:
    """Make the step that torchtitan creates an optimizer's state with before it reads or loads it."""
    fresh = Training(component, options)
    for group in fresh.optimizer.param_groups:
        group["lr"] = 0.0
    ways = fresh.run(no_gradients, steps=1).moved()
    if any(ways.values()):
        broken(
            f"a step of optimizer '{component.name}' with gradients of 0 and lr=0 moves "
            f"{next(name for name, way in ways.items() if way)}: torchtitan makes such a step to create the state "
            "before it loads one"
        )
    trained = Training(component, options).run(given_gradients)
    for name in trained.parameters:
        kept = _state(trained, name)
        lost = kept.keys() - _state(fresh, name).keys()
        if lost:
            broken(
                f"optimizer '{component.name}' keeps {sorted(lost)} of {name} after {STEPS} steps, and not after a "
                "first one with gradients of 0: torchtitan loads only what that step has made; make all of it there"
            )


def _state(training: Training, name: str) -> Mapping[str, Any]:
    state: Mapping[str, Any] = training.optimizer.state.get(training.parameters[name], {})
    return state


def _check_shared(component: Optimizer, options: Any) -> None:
    whole = Training(component, options).run(given_gradients).weights()
    start = tiny_weights()
    # Made before: within, every device would draw numbers of its own.
    gradients = [given_gradients(step, {name: nn.Parameter(start[name]) for name in start}) for step in range(STEPS)]
    with two_devices() as (share, gather):
        training = Training(component, options, weights={name: share(weight) for name, weight in start.items()})

        def shared(step: int, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
            return {name: share(gradient) for name, gradient in gradients[step].items()}

        try:
            found = {name: gather(weight) for name, weight in training.run(shared).weights().items()}
        except Exception as error:
            broken(
                f"optimizer '{component.name}' does not work on weights of which two devices hold a half each "
                f"(DTensor, as FSDP2 makes them): {error}; make state with zeros_like(parameter), and reduce norms by "
                "full_tensor() before they become numbers"
            )
    for name, weight in whole.items():
        way, off = float((weight - start[name]).norm()), float((weight - found[name]).norm())
        if not off <= 0.05 * way:
            broken(
                f"optimizer '{component.name}' steps {name} otherwise where two devices hold a half of it each "
                f"(DTensor, as FSDP2 makes them): off by {off:.3g} after a way of {way:.3g}; take norms and means over "
                "the whole parameter, not over to_local()"
            )
