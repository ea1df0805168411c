"""What ``verify`` finds out about an exported model: loaded by plain transformers, as its users will load it.

Its weights are compared with the source's, and what it computes with its own ``config.json``, read as plain JSON: by
that, not by what transformers makes of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch  # noqa: TID253
from safetensors import safe_open
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS  # noqa: TID253

from smolrecipe import Proof, StageContext
from smolrecipe.checkpoint import CONFIG_FILE, check_checkpoint, weight_files
from smolrecipe.stage import MODEL_FOLDER
from smolrecipe_export import ExportOptions
from smolrecipe_export.chat_proofs import chat_proofs
from smolrecipe_export.reload import load_model, load_tokenizer, unlike_its_config
from smolrecipe_export.rotary_formula import attention_factor, frequencies

_WHOLE = "plain transformers loads it as a whole"

FREQUENCY_BOUND = 1e-6
"""Relative: transformers computes powers of the base in float32."""

_EXPORT_S_OWN = {"use_cache", "dtype", "torch_dtype", "eos_token_id", "pad_token_id"}
"""Keys of config.json that export sets itself."""


def proofs(options: ExportOptions, context: StageContext) -> Iterator[Proof]:
    """Proofs about an exported model."""
    source, folder = context.input(options.from_), context.folder / MODEL_FOLDER
    for each in (source, folder):
        check_checkpoint(each)
    config = _json(folder / CONFIG_FILE)
    yield _same_weights(source, folder, options.dtype)
    yield _configuration(options, _json(source / CONFIG_FILE), config)

    if unlike := unlike_its_config(folder):
        yield Proof(claim=_WHOLE, holds=False, note=f"it {unlike}")
        return
    model, loading = load_model(folder)
    misfits = [f"{what} {key}" for what, keys in loading.items() if what != "conversion_errors" for key in keys]
    tensors = len(model.state_dict())
    yield Proof.same(_WHOLE, len(misfits), tensors, of="tensors", note="; ".join(misfits[:3]))
    yield from _rope(model, config)
    yield from _layers(model, config)

    tokenizer = load_tokenizer(folder)
    lengths = {
        "config.json": config["max_position_embeddings"],
        "the loaded model": model.config.max_position_embeddings,
        "the tokenizer": tokenizer.model_max_length,
    }
    yield Proof(
        claim="model and tokenizer take equal lengths",
        holds=len(set(lengths.values())) == 1,
        measured=" and ".join(f"{length:,}" for length in dict.fromkeys(lengths.values())),
        bound=f"{lengths['config.json']:,} tokens",
        note="" if len(set(lengths.values())) == 1 else ", ".join(f"{who}: {n}" for who, n in lengths.items()),
    )
    yield from chat_proofs(options, folder, model, tokenizer)


def _same_weights(source: Path, folder: Path, dtype: str) -> Proof:
    """Every tensor is the source's to the bit, or its values rounded to another dtype."""
    theirs, ours = _weights(source), _weights(folder)
    differing = [f"{key} is only in one of them" for key in sorted(theirs.keys() ^ ours.keys())]
    for key in sorted(theirs.keys() & ours.keys()):
        expected, tensor = theirs[key].get_tensor(key), ours[key].get_tensor(key)
        if dtype != "keep" and expected.is_floating_point():
            expected = expected.to(getattr(torch, dtype))
        if tensor.dtype != expected.dtype or tensor.shape != expected.shape:
            differing.append(f"{key} is {tensor.dtype} {list(tensor.shape)}")
        elif not torch.equal(tensor.contiguous().view(torch.uint8), expected.contiguous().view(torch.uint8)):
            differing.append(f"{key} in {int((tensor != expected).sum()):,} values")
    return Proof.same(
        "weights are the source's" + ("" if dtype == "keep" else f", rounded to {dtype}"),
        len(differing),
        len(theirs.keys() | ours.keys()),
        of="tensors",
        note="; ".join(differing[:3]),
    )


def _weights(folder: Path) -> dict[str, Any]:
    """The open file of each tensor."""
    found: dict[str, Any] = {}
    for file in weight_files(folder):
        opened = safe_open(file, framework="pt")
        found |= dict.fromkeys(opened.keys(), opened)
    return found


def _configuration(options: ExportOptions, before: dict[str, Any], config: dict[str, Any]) -> Proof:
    """Nothing else is changed than what the components and export itself write."""
    expected = json.loads(json.dumps(before))
    for use in options.components.values():
        if use.component.to_hf is not None:
            use.component.to_hf(expected, use.options)
    keys = sorted((expected.keys() | config.keys()) - _EXPORT_S_OWN)
    differing = [
        f"{key} {expected.get(key)} -> {config.get(key)}" for key in keys if expected.get(key) != config.get(key)
    ]
    added = f" with {', '.join(options.components)}" if options.components else ""
    return Proof.same(
        f"the config is the source's{added}", len(differing), len(keys), of="keys", note="; ".join(differing[:3])
    )


def _rope(model: Any, config: dict[str, Any]) -> Iterator[Proof]:
    """The frequencies and the factor on cosines and sines that the loaded model computes with."""
    rotary = [module for module in model.modules() if hasattr(module, "inv_freq")]
    rope = config.get("rope_parameters") or config.get("rope_scaling")
    if not rotary and not rope:
        return
    rope = {"rope_theta": config.get("rope_theta"), **(rope or {"rope_type": "default"})}
    missing = [key for key in ("rope_theta", "rope_type") if rope.get(key) is None]
    if rope.get("rope_type") == "yarn":
        missing += [key for key in ("factor", "original_max_position_embeddings") if rope.get(key) is None]
    if not rotary or missing:
        what = (
            f"config.json names no {', '.join(missing)}: transformers takes a default" if missing else "it has no RoPE"
        )
        yield Proof(claim="RoPE in force is that of the config", holds=False, note=what)
        return
    dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    kind = {"default": "RoPE", "yarn": "YaRN"}.get(rope["rope_type"], rope["rope_type"])
    expected = frequencies(rope, dim)
    for module in rotary:
        in_force = module.inv_freq.double()
        theirs, factor = None, 1.0
        if rope["rope_type"] in ROPE_INIT_FUNCTIONS:
            theirs, factor = ROPE_INIT_FUNCTIONS[rope["rope_type"]](type(model.config).from_dict(config))
        if expected is not None:
            yield _relative(f"{kind}'s frequencies are the paper's", in_force, torch.tensor(expected).double())
        elif theirs is not None:
            # Without a formula of our own, only that the model in force is that of its config.json.
            yield _relative(f"{kind}'s frequencies are those of the config", in_force, theirs.double())
        paper = attention_factor(rope)
        wanted = factor if paper is None else paper
        yield Proof(
            claim=f"{kind}'s attention factor is in force",
            holds=abs(module.attention_scaling - wanted) <= FREQUENCY_BOUND,
            measured=f"{module.attention_scaling:.7f}",
            bound=f"{wanted:.7f} ± {FREQUENCY_BOUND:g}",
        )


def _relative(claim: str, in_force: torch.Tensor, expected: torch.Tensor) -> Proof:
    if in_force.shape != expected.shape:
        return Proof(claim=claim, holds=False, note=f"there are {len(in_force)} of them, not {len(expected)}")
    apart = ((in_force - expected) / expected).abs()
    worst = int(apart.argmax())
    return Proof.within(
        claim, float(apart.max()), FREQUENCY_BOUND, unit="relative",
        note=f"pair {worst}: {float(in_force[worst]):.6g} in force, {float(expected[worst]):.6g} expected",
    )  # fmt: skip


def _layers(model: Any, config: dict[str, Any]) -> Iterator[Proof]:
    """Which layers rotate, found by moving the positions apart: a layer without RoPE does not notice."""
    layers, rotary = (getattr(getattr(model, "model", None), name, None) for name in ("layers", "rotary_emb"))
    if layers is None or rotary is None:
        return
    uses = config.get("no_rope_layers") or [1] * len(layers)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, 8, model.config.hidden_size, generator=generator).to(model.dtype)
    near = torch.arange(hidden.shape[1]).unsqueeze(0)
    wrong = []
    with torch.inference_mode():
        for index, layer in enumerate(layers):
            one, two = (
                layer.self_attn(
                    hidden_states=hidden, position_embeddings=rotary(hidden, positions), attention_mask=None
                )[0]
                for positions in (near, 3 * near)
            )
            if torch.equal(one, two) == bool(uses[index]):
                wrong.append(f"layer {index} {'does not rotate' if uses[index] else 'rotates'}")
    without = sum(not use for use in uses)
    yield Proof.same(
        f"{len(layers) - without} layers rotate, {without} do not (NoPE)" if without else "all layers rotate",
        len(wrong),
        len(layers),
        of="layers",
        note=", ".join(wrong[:6]),
    )


def _json(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content
