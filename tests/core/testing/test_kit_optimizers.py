"""The checks of an optimizer's steps: each catches one that breaks it; torch's own that hold the contract pass."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist

from smolrecipe import NoOptions, Optimizer, ParameterGroup
from smolrecipe.testing.contract import ContractError, example_of
from smolrecipe.testing.optimizers import checks
from smolrecipe_registry.discovery import load_registry

NO_DECAY = "tok_embeddings|embed_tokens|lm_head"


class Momentum(torch.optim.Optimizer):
    """SGD with momentum and decoupled weight decay; the mutants override one of its parts."""

    def __init__(self, params: Any, lr: float = 0.01, weight_decay: float = 0.0, momentum: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    def rate(self, group: dict[str, Any]) -> float:
        return group["lr"]

    def decay(self, group: dict[str, Any]) -> float:
        return self.rate(group) * group["weight_decay"]

    def update(self, parameter: Any, group: dict[str, Any]) -> torch.Tensor:
        state = self.state[parameter]
        if not state:
            state["average"] = torch.zeros_like(parameter)
        return state["average"].mul_(group["momentum"]).add_(parameter.grad)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    update = self.update(parameter, group)
                    parameter.mul_(1 - self.decay(group))
                    parameter.add_(update, alpha=-self.rate(group))


def two_groups(**settings: Any) -> list[ParameterGroup]:
    settings = {"lr": 0.01, "weight_decay": 0.1} | settings
    return [
        ParameterGroup(pattern=NO_DECAY, settings=settings | {"weight_decay": 0.0}),
        ParameterGroup(pattern=".*", settings=settings),
    ]


def optimizer_of(factory: Any, groups: Callable[[], Sequence[ParameterGroup]] = two_groups) -> Optimizer:
    return Optimizer(
        name="tried",
        summary="an optimizer",
        source="here",
        factory=lambda options: factory,
        groups=lambda options: groups(),
    )


def reports(component: Optimizer, options: Any = None) -> dict[str, str]:
    """The checks that fail, in their order, with what they say."""
    found = {}
    for check in checks(component, NoOptions() if options is None else options):
        try:
            check.run()
        except ContractError as error:
            found[check.name] = str(error)
    assert not dist.is_initialized()
    return found


def built_ins() -> list[tuple[Optimizer, Any]]:
    catalog = load_registry().catalog
    return [(component, example_of(component, catalog)) for component, _ in catalog if isinstance(component, Optimizer)]


@pytest.mark.parametrize(("component", "options"), built_ins(), ids=lambda value: getattr(value, "name", ""))
def test_built_ins_pass(component: Optimizer, options: Any) -> None:
    assert reports(component, options) == {}


@pytest.mark.parametrize("lr", [1e-6, 1e-2])
def test_the_rate_of_the_example_does_not_matter(lr: float) -> None:
    (adamw,) = [component for component, _ in built_ins() if component.name == "adamw"]
    assert reports(adamw, adamw.options(lr=lr)) == {}


@pytest.mark.parametrize(
    ("factory", "settings"),
    [
        (Momentum, {}),
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        (torch.optim.Adam, {"foreach": True}),  # its weight decay is part of the gradient
        (torch.optim.NAdam, {}),
        (torch.optim.RMSprop, {}),
    ],
)
def test_torchs_own_pass(factory: Any, settings: Any) -> None:
    assert reports(optimizer_of(factory, lambda: two_groups(**settings))) == {}


def test_weight_decay_is_not_asked_of_an_optimizer_without() -> None:
    component = optimizer_of(torch.optim.Rprop, lambda: [ParameterGroup(pattern=".", settings={"lr": 0.01})])
    assert "each group has its own weight decay" not in [check.name for check in checks(component, NoOptions())]


class OwnSettings(Momentum):
    """Has a momentum of its own, whatever its groups say."""

    def __init__(self, params: Any) -> None:
        super().__init__([group | {"momentum": 0.5} for group in params])


class OneGroup(Momentum):
    """Puts all parameters into one group, when the engine gives it no names."""

    def __init__(self, params: Any) -> None:
        if "param_names" not in params[0]:
            params = [params[0] | {"params": [parameter for group in params for parameter in group["params"]]}]
        super().__init__(params)


class NoNames(Momentum):
    """Takes no key that it does not know."""

    def __init__(self, params: Any) -> None:
        if "param_names" not in params[0]:
            raise TypeError("names, please")
        super().__init__(params)


class NoOptimizer:
    def __init__(self, params: Any) -> None:
        self.param_groups = params


class NeedsClosure(Momentum):
    def step(self, closure: Any) -> None:
        closure()
        super().step()


class OnlyPositional(Momentum):
    def step(self) -> None:
        super().step()


class Matrices(Momentum):
    """Leaves out what is no matrix, as Muon alone would."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim != 2:
                    parameter.grad = None
        super().step()


class Ascent(Momentum):
    def update(self, parameter: Any, group: dict[str, Any]) -> torch.Tensor:
        return -super().update(parameter, group)


class FixedRate(Momentum):
    """Remembers each group's rate from its construction."""

    def __init__(self, params: Any) -> None:
        super().__init__(params)
        for group in self.param_groups:
            group["peak"] = group["lr"]

    def rate(self, group: dict[str, Any]) -> float:
        return group["peak"] if group["lr"] else 0.0


class IndependentDecay(Momentum):
    """Decays by as much in every step, whatever the schedule says."""

    def decay(self, group: dict[str, Any]) -> float:
        return 1e-3 * group["weight_decay"]


class OneRate(Momentum):
    """Steps every group at the first one's rate."""

    def rate(self, group: dict[str, Any]) -> float:
        return self.param_groups[0]["lr"]


class OneDecay(Momentum):
    """Decays every group as the last one."""

    def decay(self, group: dict[str, Any]) -> float:
        return self.rate(group) * self.param_groups[-1]["weight_decay"]


class NoDecay(Momentum):
    def decay(self, group: dict[str, Any]) -> float:
        return 0.0


class DecaysAll(Momentum):
    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        missing = [p for group in self.param_groups for p in group["params"] if p.grad is None]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        super().step()
        for parameter in missing:
            parameter.grad = None


class NeedsGradients(Momentum):
    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad.clamp_(-100, 100)
        super().step()


class Counts(Momentum):
    """Its count of steps is in no state."""

    steps = 0

    def rate(self, group: dict[str, Any]) -> float:
        return group["lr"] / (1 + 0.01 * self.steps)

    def step(self, closure: Any = None) -> None:
        super().step()
        self.steps += 1


class Unsaved(Momentum):
    """Keeps an object in its state."""

    def update(self, parameter: Any, group: dict[str, Any]) -> torch.Tensor:
        update = super().update(parameter, group)
        self.state[parameter]["kept"] = Momentum
        return update


class Lazy(Momentum):
    """Makes a second average in its second step."""

    def update(self, parameter: Any, group: dict[str, Any]) -> torch.Tensor:
        state = self.state[parameter]
        seen = "average" in state
        update = super().update(parameter, group)
        if seen:
            state.setdefault("slow", torch.zeros_like(parameter)).lerp_(update, 0.1)
            update = update + state["slow"]
        return update


class LazyAboutZeros(Momentum):
    """Makes no state for a gradient of 0."""

    def update(self, parameter: Any, group: dict[str, Any]) -> torch.Tensor:
        if not self.state[parameter] and float(parameter.grad.abs().max()) == 0:
            return torch.zeros_like(parameter)
        return super().update(parameter, group)


class FirstStepNudge(Momentum):
    """Moves weights when it makes its state, if their gradient is 0, whatever the rate."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        new = not self.state
        super().step()
        for group in self.param_groups:
            for parameter in group["params"]:
                if new and parameter.grad is not None and not group["lr"] and not parameter.grad.any():
                    parameter.add_(1e-3)


class PlainState(Momentum):
    """Makes its state by the shape, which is the whole parameter's."""

    def update(self, parameter: Any, group: dict[str, Any]) -> torch.Tensor:
        self.state[parameter].setdefault("average", torch.zeros(parameter.shape))
        return super().update(parameter, group)


class LocalNorm(Momentum):
    """Steps by the norm of what one device holds."""

    def update(self, parameter: Any, group: dict[str, Any]) -> torch.Tensor:
        update = super().update(parameter, group)
        local = parameter.grad.to_local() if hasattr(parameter.grad, "to_local") else parameter.grad
        if local is parameter.grad:
            return update / (local.norm() + 1e-9)
        from torch.distributed.tensor import DTensor

        return DTensor.from_local(update.to_local() / (local.norm() + 1e-9), update.device_mesh, update.placements,
                                  shape=update.shape, stride=update.stride())  # fmt: skip


@pytest.mark.parametrize(
    ("factory", "caught_by", "says"),
    [
        (OneGroup, "it is built from its groups", "regroups the parameters"),
        (NoNames, "it is built from its groups", "names, please"),
        (OnlyPositional, "a step needs no closure", "step(closure=None)"),
        (FixedRate, "schedules change its rate", "halves the rate"),
        (OneRate, "each group has its own rate", "has lr=0"),
        (OneDecay, "each group has its own weight decay", "though its group has weight_decay=0:"),
        (NoDecay, "each group has its own weight decay", "does not decay"),
        (DecaysAll, "weights without a gradient stay", "has no gradient"),
        (NeedsGradients, "weights without a gradient stay", "AttributeError"),
        (Counts, "it resumes bit for bit", "goes on otherwise"),
        (Unsaved, "it resumes bit for bit", "cannot be saved"),
        (Lazy, "its state is there after one step", "['slow']"),
        (FirstStepNudge, "its state is there after one step", "lr=0 moves"),
        (PlainState, "shared weights step as whole ones", "mixed torch.Tensor and DTensor"),
        (LocalNorm, "shared weights step as whole ones", "over to_local()"),
    ],
)
def test_exactly_one_check_catches(factory: Any, caught_by: str, says: str) -> None:
    found = reports(optimizer_of(factory))
    assert list(found) == [caught_by]
    assert says in found[caught_by] and "'tried'" in found[caught_by]


@pytest.mark.parametrize(
    ("factory", "caught_by", "says"),
    [
        (NoOptimizer, "it is built from its groups", "no torch.optim.Optimizer"),
        (lambda params: Momentum(params, unknown=1), "it is built from its groups", "TypeError"),
        (OwnSettings, "it is built from its groups", "0.5"),
        (NeedsClosure, "a step needs no closure", "step()"),
        (Matrices, "every weight moves", "norm.weight"),
        (LazyAboutZeros, "its state is there after one step", "['average']"),
        (Ascent, "steps lower a loss", "the step's sign wrong"),
        (IndependentDecay, "schedules change its rate", "weight decay too"),
        (torch.optim.Adafactor, "shared weights step as whole ones", "full_tensor()"),
    ],
)
def test_it_is_caught_where_others_fail_too(factory: Any, caught_by: str, says: str) -> None:
    groups = two_groups if factory is not OwnSettings else lambda: two_groups(momentum=0.9)
    found = reports(optimizer_of(factory, groups))
    assert says in found[caught_by]


def test_a_process_group_that_is_open_is_left_alone() -> None:
    """Checks of shared weights open one of their own."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=1, store=FakeStore())
    try:
        (check,) = [one for one in checks(optimizer_of(Momentum), NoOptions()) if one.name.startswith("shared")]
        with pytest.raises(RuntimeError, match="process group already"):
            check.run()
        assert dist.is_initialized()
    finally:
        dist.destroy_process_group()
