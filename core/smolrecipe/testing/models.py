"""What a model component must hold: how it edits a draft. Its model is in ``model_steps``, its config in
``model_configs``.

A component is tried on the kit's decoder (see ``decoders``: 4 layers, width 64, 4 heads, a vocabulary of 128); one that
makes the decoder itself starts from an empty draft.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

from smolrecipe.components import ModelComponent
from smolrecipe.errors import StageError
from smolrecipe.model import ModelDraft
from smolrecipe.testing.attempts import after, make, options_kept, reporting, sentences
from smolrecipe.testing.contract import Check, broken
from smolrecipe.testing.titan import use_cpu_without_gpu

Device = Literal["cpu", "cuda"]

SPLITS: tuple[dict[str, Any], ...] = ({}, {"context_parallel": 2}, {"tensor_parallel": 2})
"""How devices may share the work that a draft is built for."""

REFUSES = "it says in sentences what it refuses"
NEEDS_DECODER = "it makes a decoder, or says that it needs one"
EDITS_DRAFT = "it edits the draft and nothing else"
OWN_MODEL = "every draft gets a model of its own"


def checks(component: ModelComponent, options: Any) -> Iterator[Check]:
    """The checks of a model component with the options of its example."""
    for name, check in (
        ("what it comes after is named", _check_after),
        ("its longest sequence is a number of tokens", _check_max_positions),
        (REFUSES, check_refusals),
        (NEEDS_DECODER, _check_needs_decoder),
        (EDITS_DRAFT, check_edits),
        (OWN_MODEL, _check_drafts),
        ("every layer gets configs of its own", _check_layers),
        ("applied again, it changes nothing or refuses", _check_again),
    ):
        yield Check(name=name, run=partial(make, check, component, options))
    yield from importlib.import_module("smolrecipe.testing.model_configs").checks(component, options)
    for name in MODEL_CHECKS:
        yield Check(name=name, run=partial(_run_model_check, name, component, options))


MODEL_CHECKS = (
    "its model can be built without memory",
    "every weight gets an initial value",
    "its logits are finite",
    "no token sees a later one",
    "every parameter gets a gradient",
    "data parallelism shards it",
    "tensor parallelism shards it",
    "new parameters have Hugging Face names",
)


def _run_model_check(name: str, component: ModelComponent, options: Any) -> None:
    use_cpu_without_gpu()
    make(importlib.import_module("smolrecipe.testing.model_steps").CHECKS[name], component, options)


def called(component: ModelComponent) -> str:
    """How messages name the component."""
    return f"model component '{component.name}'"


def device_for(component: ModelComponent, options: Any) -> Device:
    """The device that the component can be drafted for: the CPU, unless it says that it cannot be."""
    draft = ModelDraft(device="cpu", sequence_length=longest(component, options))
    try:
        return "cuda" if list(component.check_draft(options, draft)) else "cpu"
    except Exception:
        return "cpu"  # what it raises is for the check of that


def longest(component: ModelComponent, options: Any) -> int:
    """How long the sequences are that the component is tried with, in tokens."""
    bound = component.max_positions(options)
    return min(32, bound) if type(bound) is int and bound > 0 else 32


def drafted(component: ModelComponent, options: Any, **what: Any) -> ModelDraft:
    """A draft that the component has edited.

    Raises:
        ContractError: where it cannot edit the kit's decoder.
    """
    draft = draft_for(component, options, **what)
    with reporting(
        f"apply of {called(component)} on a decoder of 4 layers, width 64 and 4 heads (its example must fit that)"
    ):
        component.apply(draft, options)
    return draft


def draft_for(component: ModelComponent, options: Any, **what: Any) -> ModelDraft:
    """A draft for the component to edit: empty, if it makes the decoder."""
    use_cpu_without_gpu()
    decoders = importlib.import_module("smolrecipe.testing.decoders")
    make = decoders.empty_draft if makes_decoder(component, options) else decoders.plain_draft
    draft: ModelDraft = make(device_for(component, options), **{"sequence_length": longest(component, options), **what})
    return draft


def makes_decoder(component: ModelComponent, options: Any) -> bool:
    """Whether there is a decoder after ``apply`` where there was none."""
    draft = ModelDraft(device=device_for(component, options), sequence_length=longest(component, options))
    use_cpu_without_gpu()
    try:
        component.apply(draft, options)
    except Exception:
        return False  # what it raises is for the check of that
    return draft.decoder is not None


def _check_after(component: ModelComponent, options: Any) -> None:
    names = component.after
    if not isinstance(names, tuple) or not all(isinstance(name, str) and name for name in names):
        broken(f"'after' of {called(component)} is {names!r}: make it a tuple of names, as in ('decoder',)")
    if component.name in names:
        broken(f"'after' of {called(component)} names the component itself: no recipe could list it")


def _check_max_positions(component: ModelComponent, options: Any) -> None:
    bound = options_kept(f"max_positions of {called(component)}", options, lambda: component.max_positions(options))
    if bound is not None and (type(bound) is not int or bound < 1):
        broken(
            f"max_positions of {called(component)} is {bound!r}: return a whole number of tokens, "
            "or None where it sets no bound"
        )


def check_refusals(component: ModelComponent, options: Any) -> None:
    """``check_draft`` yields sentences, looks without touching, and leaves a device that the example can be used on."""
    what = f"check_draft of {called(component)}"
    devices: tuple[Device, ...] = ("cpu", "cuda")
    refused = []
    for device in devices:
        for split in SPLITS:
            draft = ModelDraft(device=device, sequence_length=longest(component, options), **split)
            with reporting(f"{what}, where the draft has no decoder yet,"):
                said = sentences(what, component.check_draft(options, draft))
            if draft != ModelDraft(device=device, sequence_length=longest(component, options), **split):
                broken(f"{what} edits the draft: it may only look at it; 'apply' edits")
            if not split:
                refused.append(said)
    if all(refused):
        broken(
            f"{what} refuses its own example on a CPU ({'; '.join(refused[0])}) and on a GPU "
            f"({'; '.join(refused[1])}): then no recipe can use it"
        )


def _check_needs_decoder(component: ModelComponent, options: Any) -> None:
    draft = ModelDraft(device=device_for(component, options), sequence_length=longest(component, options))
    use_cpu_without_gpu()
    try:
        with reporting(f"apply of {called(component)}, where no component has made a decoder (draft.decoder is None),"):
            component.apply(draft, options)
    except AssertionError as error:
        if isinstance(error.__cause__, StageError):
            return
        broken(f"{error}. Take the layers from draft.layers('{component.name}'), which tells the user what to do")
    if draft.decoder is None:
        broken(
            f"{called(component)} does nothing where no component has made a decoder, and a recipe that lists it first "
            f"would train without it: take the layers from draft.layers('{component.name}'), which refuses that"
        )


def check_edits(component: ModelComponent, options: Any) -> None:
    """``apply`` returns nothing, and leaves its options and what the draft is built for alone."""
    draft = draft_for(component, options)
    built_for = (draft.device, draft.sequence_length, draft.context_parallel, draft.tensor_parallel)
    result = options_kept(
        f"apply of {called(component)} on a decoder of 4 layers, width 64 and 4 heads (its example must fit that)",
        options,
        lambda: component.apply(draft, options),
    )
    if result is not None:
        broken(f"apply of {called(component)} returns {type(result).__name__}: edit the draft in place")
    if built_for != (draft.device, draft.sequence_length, draft.context_parallel, draft.tensor_parallel):
        broken(f"apply of {called(component)} changes what the draft is built for: only the decoder may change")
    if not getattr(draft.decoder, "layers", None):
        broken(f"{called(component)} leaves a draft whose decoder is {draft.decoder!r}: it has no layers")


def _check_drafts(component: ModelComponent, options: Any) -> None:
    after(EDITS_DRAFT, check_edits, component, options)
    decoders = importlib.import_module("smolrecipe.testing.decoders")
    first, second = (drafted(component, options) for _ in range(2))
    if found := decoders.differences(first.decoder, second.decoder):
        broken(
            f"{called(component)} makes another model of each draft: {found[0]}. What it does may depend on the draft "
            "and the options alone"
        )
    held = {id(config) for config in decoders.configs_in(first.decoder)}
    shared = [config for config in decoders.configs_in(second.decoder) if id(config) in held]
    if shared:
        broken(
            f"{called(component)} puts one and the same {type(shared[0]).__qualname__} into two drafts: torchtitan "
            "writes into configs, so make a new one in 'apply'"
        )


def _check_layers(component: ModelComponent, options: Any) -> None:
    after(EDITS_DRAFT, check_edits, component, options)
    decoders = importlib.import_module("smolrecipe.testing.decoders")
    seen: dict[int, int] = {}
    for index, layer in enumerate(drafted(component, options).decoder.layers):
        for config in decoders.configs_in(layer):
            if seen.setdefault(id(config), index) != index:
                broken(
                    f"{called(component)} gives layers {seen[id(config)]} and {index} one and the same "
                    f"{type(config).__qualname__}: torchtitan writes a layer's sharding into it, so make one for each"
                )


def _check_again(component: ModelComponent, options: Any) -> None:
    after(OWN_MODEL, _check_drafts, component, options)
    decoders = importlib.import_module("smolrecipe.testing.decoders")
    draft, once = drafted(component, options), drafted(component, options)
    try:
        with reporting(f"apply of {called(component)}, a second time on one draft,"):
            component.apply(draft, options)
    except AssertionError as error:
        if isinstance(error.__cause__, StageError):
            return
        raise
    if found := decoders.differences(once.decoder, draft.decoder):
        broken(
            f"{called(component)} changes the model again where it is applied a second time: {found[0]}. Set what the "
            "options ask for, whatever was there, or refuse with a StageError"
        )
