"""What a model component must hold of its model: it is built, filled, computes, learns, and is shared among devices."""

# mypy: disable-error-code="import-untyped, misc, no-any-return, no-untyped-call"

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch  # noqa: TID253

from smolrecipe.components import ModelComponent
from smolrecipe.model import ModelDraft
from smolrecipe.testing.attempts import after, only_where, reporting
from smolrecipe.testing.contract import ContractError, broken
from smolrecipe.testing.decoders import BATCH, HF_PARAMETERS, initialised, logits, on_meta
from smolrecipe.testing.models import (
    EDITS_DRAFT,
    MODEL_CHECKS,
    REFUSES,
    called,
    check_edits,
    check_refusals,
    device_for,
    drafted,
    longest,
)
from smolrecipe.testing.sharding import trace_sharded

BUILT, FILLED, FINITE, CAUSAL, LEARNS, DATA_PARALLEL, TENSOR_PARALLEL, NAMED = MODEL_CHECKS
LEAK = 1e-5
"""How much a logit may differ with the tokens after it: float32 sums of some hundred terms in another order."""


def _check_built(component: ModelComponent, options: Any) -> None:
    after(EDITS_DRAFT, check_edits, component, options)
    decoder = drafted(component, options).decoder
    with reporting(f"building the model that {called(component)} drafts"):
        model = on_meta(decoder)
        model.verify_module_protocol()
    real = [name for name, value in [*model.named_parameters(), *model.named_buffers()] if not value.is_meta]
    if real:
        broken(
            f"'{real[0]}' of the model that {called(component)} drafts takes up memory while a layout is only planned: "
            "make tensors without device=, so that torch.device('meta') holds for them"
        )
    with reporting(f"counting the parameters of the model that {called(component)} drafts"):
        decoder.get_nparams_and_flops(model, longest(component, options))


def _check_filled(component: ModelComponent, options: Any) -> None:
    after(BUILT, _check_built, component, options)
    with reporting(f"filling the model that {called(component)} drafts with its initial weights"):
        model = initialised(drafted(component, options).decoder, "cpu")
    empty = [
        name
        for name, value in [*model.named_parameters(), *model.named_buffers()]
        if value.is_floating_point() and value.isnan().any()
    ]
    if empty:
        broken(
            f"'{empty[0]}' of the model that {called(component)} drafts has no initial value: a parameter needs "
            "an initialiser in its config's param_init, a buffer one in _init_self_buffers"
        )


def _model(component: ModelComponent, options: Any) -> tuple[Any, torch.Tensor]:
    """The model on a device that it runs on, and tokens for it, shape (B, L)."""
    device = device_for(component, options)
    only_where(device == "cpu" or torch.cuda.is_available(), f"{called(component)} computes on a GPU and there is none")
    decoder = drafted(component, options).decoder
    tokens = torch.arange(BATCH * longest(component, options)).reshape(BATCH, -1) * 7 % decoder.vocab_size
    return initialised(decoder, device), tokens.to(device)


def _check_finite(component: ModelComponent, options: Any) -> None:
    after(FILLED, _check_filled, component, options)
    model, tokens = _model(component, options)
    with reporting(f"the model that {called(component)} drafts, computing logits in float32,"), torch.no_grad():
        predicted = logits(model.eval(), tokens)
    expected = (*tokens.shape, model.config.vocab_size)
    if tuple(predicted.shape) != expected:
        broken(
            f"the model that {called(component)} drafts returns logits of the shape {tuple(predicted.shape)}, where "
            f"(batch, sequence length, vocabulary) is {expected}"
        )
    if not predicted.isfinite().all():
        broken(f"the model that {called(component)} drafts returns logits that are not finite")


def _check_causal(component: ModelComponent, options: Any) -> None:
    after(FINITE, _check_finite, component, options)
    model, tokens = _model(component, options)
    half = tokens.shape[1] // 2
    others = tokens.clone()
    others[:, half:] = (others[:, half:] + 1) % model.config.vocab_size
    with torch.no_grad():
        one, two = (logits(model.eval(), ids)[:, :half] for ids in (tokens, others))
    leak = (one - two).abs().max().item()
    if leak > LEAK:
        broken(
            f"with {called(component)} a logit differs by {leak:.2g} where only tokens after it do: a model that is "
            "trained to predict the next token must not see it"
        )


def _check_learns(component: ModelComponent, options: Any) -> None:
    after(FINITE, _check_finite, component, options)
    model, tokens = _model(component, options)
    with reporting(f"the backward pass of the model that {called(component)} drafts"):
        predicted = logits(model.train(), tokens)
        torch.nn.functional.cross_entropy(predicted[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.grad is None:
            broken(
                f"parameter '{name}' of the model that {called(component)} drafts gets no gradient: nothing is computed"
                " with it. Leave it out"
            )
        if not parameter.grad.isfinite().all():
            broken(f"the gradient of parameter '{name}' with {called(component)} is not finite")


def _check_sharded(component: ModelComponent, options: Any, tensor_parallel: int) -> None:
    after(LEARNS, _check_learns, component, options)
    after(REFUSES, check_refusals, component, options)
    what: dict[str, Any] = {"sequence_length": longest(component, options), "tensor_parallel": tensor_parallel}
    refused = "; ".join(component.check_draft(options, ModelDraft(device=device_for(component, options), **what)))
    only_where(not refused, f"{called(component)} says that it cannot be shared so: {refused}")
    draft = drafted(component, options, **what)
    how = (
        f"among 4 devices, {tensor_parallel} of which share each matrix," if tensor_parallel > 1 else "among 4 devices"
    )
    with (
        reporting(
            f"sharding the model that {called(component)} drafts {how} (give new modules a sharding_config, or refuse "
            "in check_draft)"
        ),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        without = trace_sharded(draft.decoder, tensor_parallel, longest(component, options))
    if without:
        broken(f"parameter '{without[0]}' with {called(component)} gets no gradient where the model is sharded")


def _check_data_parallel(component: ModelComponent, options: Any) -> None:
    _check_sharded(component, options, tensor_parallel=1)


def _check_tensor_parallel(component: ModelComponent, options: Any) -> None:
    try:
        _check_sharded(component, options, tensor_parallel=2)
    except ContractError:
        after(DATA_PARALLEL, _check_data_parallel, component, options)
        raise


def _check_named(component: ModelComponent, options: Any) -> None:
    after(BUILT, _check_built, component, options)
    only_where(component.to_hf is not None, f"{called(component)} says that it has no Hugging Face counterpart")
    draft = drafted(component, options)
    held = {re.sub(r"(?<=layers\.)\d+(?=\.)", "{}", name, count=1) for name in on_meta(draft.decoder).state_dict()}
    nameless = sorted(held - set(draft.hf_parameters))
    if nameless:
        broken(
            f"parameter '{nameless[0]}' that {called(component)} brings has no Hugging Face name: add one to "
            "draft.hf_parameters in 'apply', or give the component to_hf=None"
        )
    unknown = sorted(set(draft.hf_parameters) - held - set(HF_PARAMETERS))
    if unknown:
        broken(f"{called(component)} names the parameter '{unknown[0]}' in draft.hf_parameters, and the model has none")
    names: dict[str, str] = {}
    for name in sorted(held):
        target = draft.hf_parameters[name]
        if target in names:
            broken(f"{called(component)} gives '{names[target]}' and '{name}' the same Hugging Face name '{target}'")
        if target.count("{}") != name.count("{}"):
            broken(f"{called(component)} names '{name}' '{target}' at Hugging Face: {{}} stands for the layer in both")
        names[target] = name


CHECKS: Mapping[str, Callable[[ModelComponent, Any], None]] = {
    BUILT: _check_built,
    FILLED: _check_filled,
    FINITE: _check_finite,
    CAUSAL: _check_causal,
    LEARNS: _check_learns,
    DATA_PARALLEL: _check_data_parallel,
    TENSOR_PARALLEL: _check_tensor_parallel,
    NAMED: _check_named,
}
"""By name, as ``models.checks`` lists them."""
