"""A Hugging Face checkpoint's own weights in two models: the one that components assemble, and transformers'.

Both compute in float32 on one row of random tokens, causally, without documents: a ``config.json`` does not say how
training rows were packed. Bounds are relative to the largest value of what is compared. Float32 rounds each result by
6e-8 of itself; through the sums of some dozen layers that grows to about 1e-6, and 1e-5 leaves room for the order in
which a machine adds. What is wrong by a layer, a norm or a head is off by 1e-2 and more.

Memory: the weights once in float32, shared by both models.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch  # noqa: TID253
from torch import nn  # noqa: TID253
from transformers import AutoConfig, AutoModelForCausalLM  # noqa: TID253

from smolrecipe import Model, ModelDraft, Proof
from smolrecipe_torchtitan.hugging_face import hf_names
from smolrecipe_torchtitan.proofs.cpu_model import build_with, draft_on_cpu, set_rotary, shapes_of, with_other_base
from smolrecipe_torchtitan.proofs.stored import StoredTensors

BOUND = 1e-5
LENGTH = 48
"""Tokens of the row that both models compute."""

OTHER_BASE = 3.0
"""Times as large as the checkpoint's own is the rotary base that both models are compared under once more."""


def verify_model(folder: Path, model: Model) -> Iterator[Proof]:
    """Yield what is found of the checkpoint in ``folder``; ``model`` is what components read from its config."""
    config = AutoConfig.from_pretrained(folder)
    draft = draft_on_cpu(model, config.max_position_embeddings)
    names = hf_names(shapes := shapes_of(draft), draft.hf_parameters, tied=draft.decoder.enable_weight_tying)
    stored = StoredTensors(folder)
    fits = _tensors_fit(stored, {hf: shapes[titan] for titan, hf in names.items()})
    yield fits
    if not fits.holds:
        return
    yield _parameters(stored, config)
    finite, dtype = _values(stored, config)
    yield finite
    yield dtype
    if not finite.holds:
        return
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    held = dict(theirs.named_parameters())
    yield _loaded(stored, held)
    pair = Pair(draft, {titan: held[hf].detach() for titan, hf in names.items()}, theirs)
    with torch.no_grad():
        yield from pair.compare()


def _tensors_fit(stored: StoredTensors, expected: dict[str, tuple[int, ...]]) -> Proof:
    there = set(stored.names)
    wrong = [f"lacks {name}" for name in sorted(expected.keys() - there)]
    wrong += [f"has {name}, which the model does not have" for name in sorted(there - expected.keys())]
    wrong += [
        f"{name} is {_shape(stored.shape(name))} and not {_shape(expected[name])}"
        for name in sorted(there & expected.keys())
        if stored.shape(name) != expected[name]
    ]
    note = "; ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
    return Proof.same("tensors are the model's", len(wrong), len(there | expected.keys()), of="tensors", note=note)


def _parameters(stored: StoredTensors, config: Any) -> Proof:
    """The sum over the files against transformers' own class, made without memory."""
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config)
    theirs = sum(parameter.numel() for parameter in skeleton.parameters())
    ours = sum(torch.Size(stored.shape(name)).numel() for name in stored.names)
    return Proof(
        claim="parameters are transformers'",
        holds=ours == theirs,
        measured=f"{ours:,}",
        bound=f"{theirs:,}",
        note="" if ours == theirs else f"{type(skeleton).__name__} has another number for this config.json",
    )


def _values(stored: StoredTensors, config: Any) -> tuple[Proof, Proof]:
    broken = [name for name in stored.names if not stored.read(name).isfinite().all()]
    said = getattr(config, "dtype", None)
    wanted = str(said).removeprefix("torch.") if said is not None else stored.dtype(stored.names[0])
    other = [f"{name} is {stored.dtype(name)}" for name in stored.names if stored.dtype(name) != wanted]
    return (
        Proof.same("weights are finite", len(broken), len(stored.names), of="tensors", note=", ".join(broken[:5])),
        Proof.same(
            f"weights are {wanted}, as config.json says",
            len(other),
            len(stored.names),
            of="tensors",
            note=", ".join(other[:5]),
        ),
    )


def _loaded(stored: StoredTensors, held: dict[str, nn.Parameter]) -> Proof:
    """Whether transformers holds what lies in the files: what is compared from here on are its tensors."""
    other = [
        name for name in stored.names if name not in held or not torch.equal(held[name], stored.read(name).float())
    ]
    return Proof.same(
        "transformers loads them as they are", len(other), len(stored.names), of="tensors", note=", ".join(other[:5])
    )


class Pair:
    """The assembled decoder and transformers' model on the same weights."""

    def __init__(self, draft: ModelDraft, weights: dict[str, torch.Tensor], theirs: Any) -> None:
        self.ropes = [layer.attention.rope for layer in draft.decoder.layers]
        self.ours = build_with(draft, weights)
        self.theirs = theirs
        generator = torch.Generator().manual_seed(0)
        self.bound = min(int(rope.max_seq_len) for rope in self.ropes)
        length = min(LENGTH, self.bound)
        self.tokens = torch.randint(draft.decoder.vocab_size, (1, length), generator=generator)
        self.near = torch.arange(length)[None]
        # Anywhere in the context and in no order; nowhere 0, which would start a document.
        self.far = 1 + torch.randint(max(1, self.bound - 1), (1, length), generator=generator)
        self.far[0, -1] = self.bound - 1

    def compare(self) -> Iterator[Proof]:
        """Yield the comparisons; both models are left with another rotary base."""
        yield from self._parts_and_logits(self.near, "")
        yield from self._parts_and_logits(self.far, f" at positions up to {self.bound - 1:,}")
        yield self._who_rotates()
        before = self.ours(self.tokens, positions=self.far)
        set_rotary(self.ours, [with_other_base(rope, OTHER_BASE) for rope in self.ropes])
        changed = copy.deepcopy(self.theirs.config)
        changed.rope_parameters["rope_theta"] *= OTHER_BASE
        self.theirs.model.rotary_emb = type(self.theirs.model.rotary_emb)(changed)
        yield from self._parts_and_logits(self.far, " at another rotary base")
        if any(self.theirs.config.no_rope_layers):
            # Otherwise the comparison before would say nothing about rotation.
            moved = distance(self.ours(self.tokens, positions=self.far), before)
            yield Proof(
                claim="and that base changes the logits",
                holds=moved > 10 * BOUND,
                measured=f"{moved:.3g}",
                bound=f"more than {10 * BOUND:g}",
                note="" if moved > 10 * BOUND else "no layer seems to rotate",
            )

    def _parts_and_logits(self, positions: torch.Tensor, where: str) -> Iterator[Proof]:
        mine = [part for layer in self.ours.layers.values() for part in (layer.attention, layer.feed_forward, layer)]
        with watched(mine) as ours:
            logits = self.ours(self.tokens, positions=positions)
        other = [part for layer in self.theirs.model.layers for part in (layer.self_attn, layer.mlp, layer)]
        with watched(other) as theirs:
            # An explicit mask, without which transformers would look for documents in the positions.
            reference = self.theirs(
                self.tokens, position_ids=positions, attention_mask=torch.ones_like(self.tokens), use_cache=False
            ).logits
        parts = ("attention", "feed-forward network", "output")
        far = [distance(one, another) for one, another in zip(ours, theirs, strict=True)]
        worst = max(range(len(far)), key=far.__getitem__)
        first = next((index for index, value in enumerate(far) if value > BOUND), worst)
        yield Proof.within(
            f"all layers equal transformers'{where}",
            far[worst],
            BOUND,
            note=f"first in the {parts[first % 3]} of layer {first // 3} ({far[first]:.3g}), "
            f"worst in the {parts[worst % 3]} of layer {worst // 3}",
        )
        yield Proof.within(
            f"logits equal transformers'{where}", distance(logits, reference), BOUND, note="see the layers"
        )

    def _who_rotates(self) -> Proof:
        """Each attention alone, on the same random input at other positions: only layers that rotate notice."""
        size = (1, self.tokens.shape[1], self.theirs.config.hidden_size)
        states = torch.randn(size, generator=torch.Generator().manual_seed(1))
        causal = torch.ones(1, 1, states.shape[1], states.shape[1], dtype=torch.bool).tril()
        minus = torch.zeros(causal.shape).masked_fill(~causal, torch.finfo(torch.float32).min)
        wrong = []
        rotates = list(self.theirs.config.no_rope_layers)
        for index, (mine, layer) in enumerate(zip(self.ours.layers.values(), self.theirs.model.layers, strict=True)):
            ours, theirs = [], []
            for positions in (self.near, self.far):
                ours.append(mine.attention(states, causal, positions))
                angles = self.theirs.model.rotary_emb(states, positions)
                theirs.append(
                    layer.self_attn(hidden_states=states, position_embeddings=angles, attention_mask=minus)[0]
                )
            notices = [not torch.equal(*ours), not torch.equal(*theirs)]
            apart = max(distance(one, another) for one, another in zip(ours, theirs, strict=True))
            if notices != [bool(rotates[index])] * 2:
                says = ["rotates" if notice else "does not rotate" for notice in notices]
                wrong.append(f"layer {index} {says[0]} as assembled and {says[1]} in transformers")
            elif apart > BOUND:
                wrong.append(f"layer {index}, each alone, differs by {apart:.3g}")
        count = sum(map(bool, rotates))
        return Proof.same(
            f"{count} of {len(rotates)} layers rotate, the same ones",
            len(wrong),
            len(self.theirs.model.layers),
            of="layers",
            note="; ".join(wrong[:5]),
        )


@contextmanager
def watched(modules: list[nn.Module]) -> Iterator[list[torch.Tensor]]:
    """Collect what the modules return, in the order of calls."""
    seen: list[torch.Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    hooks = [module.register_forward_hook(keep) for module in modules]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def distance(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference, relative to the largest value of ``theirs``."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def _shape(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))
