"""What tests of pretraining share: an optimizer, a schedule and a packer of their own, a tiny model, a run of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen

from smolrecipe import (
    Artifact,
    Model,
    ModelComponent,
    ModelDraft,
    NoOptions,
    Optimizer,
    Packer,
    ParameterGroup,
    Schedule,
    StageContext,
    StageError,
    StageRef,
    TokenRow,
    Use,
)
from smolrecipe.running.metrics import MetricsWriter
from smolrecipe.stage import METRICS_FILE
from smolrecipe_torchtitan import (
    DecoderOptions,
    PretrainOptions,
    run,
    smolrecipe_model_components,
    smolrecipe_stages,
)

VOCABULARY = 64
LENGTH = 32
BATCH = 8
STEPS = 12
TRAJECTORY = 24
PEAK = 1e-2
WARMUP = 5

USED: list[dict[str, Any]] = []
"""What the optimizer was given in every step that it made."""

READ: list[int] = []
"""Every sample that was asked for."""


@frozen(kw_only=True)
class AdamOptions:
    lr: float = PEAK
    weight_decay: float = 0.1
    pattern: str = "."
    breaks: float | None = None


def adam(options: AdamOptions) -> type:
    import torch

    class WatchedAdam(torch.optim.AdamW):
        def step(self, closure: Any = None) -> None:
            if all(group["lr"] > 0 for group in self.param_groups):  # torchtitan makes states by a step at rate 0
                states = [state["step"].item() for state in self.state.values()]
                USED.append(
                    {
                        "lr": [group["lr"] for group in self.param_groups],
                        "weight_decay": [group["weight_decay"] for group in self.param_groups],
                        "steps_before": max(states, default=0.0),
                    }
                )
            super().step(closure)
            if options.breaks is not None:
                for group in self.param_groups[1:]:
                    for parameter in group["params"]:
                        parameter.detach().mul_(options.breaks)

    return WatchedAdam


def adam_groups(options: AdamOptions) -> list[ParameterGroup]:
    return [
        ParameterGroup(pattern="tok_embeddings|lm_head", settings={"lr": options.lr, "weight_decay": 0.0}),
        ParameterGroup(pattern=options.pattern, settings={"lr": options.lr, "weight_decay": options.weight_decay}),
    ]


def factor(options: Any, step: int, steps: int) -> float:
    return min(1.0, step / WARMUP) * (1 - 0.9 * (step - 1) / steps)


@frozen
class Rows:
    """Documents of made-up arithmetic sequences, packed; sample n depends on nothing but n."""

    length: int
    seed: int
    start: int

    def _row(self, *key: int) -> TokenRow:
        random = np.random.default_rng([self.seed, *key])
        tokens: list[int] = []
        positions: list[int] = []
        while len(tokens) <= self.length:
            size, token = int(random.integers(3, 20)), int(random.integers(2, VOCABULARY))
            for position in range(size):
                tokens.append(token)
                positions.append(position)
                token = 2 + (token * 5 + 7) % (VOCABULARY - 2)
            tokens.append(1)
            positions.append(size)
        tokens.append(0)
        positions.append(0)
        return TokenRow(
            np.array(tokens[: self.length + 1]),
            np.array(positions[: self.length]),
            last_starts_document=positions[self.length] == 0,
        )

    def row(self, sample: int) -> TokenRow:
        READ.append(self.start + sample)
        return self._row(0, self.start + sample)

    def held_out(self, rows: int) -> list[TokenRow]:
        return [self._row(1, number) for number in range(rows)]

    def position(self, samples: int) -> Mapping[str, int]:
        return {"made-up": self.start + samples}

    def summary(self) -> Mapping[str, Any]:
        return {"sources": 1}


ADAM = Optimizer(name="adam", summary="", options=AdamOptions, factory=adam, groups=adam_groups)
LINEAR = Schedule(name="linear", summary="", factor=factor)
PACKER = Packer(
    name="made-up",
    summary="",
    open=lambda options, context, length, seed, start: Rows(length, seed, (start or {}).get("made-up", 0)),
)
(DECODER,) = smolrecipe_model_components()
(PRETRAIN,) = smolrecipe_stages()


def turn_faster(draft: ModelDraft, options: Any) -> None:
    for layer in draft.decoder.layers:
        layer.attention.rope.theta = 5e4


MASKS: list[tuple[int, ...]] = []
"""The shapes of all positions that a document mask was asked for."""


def see_documents(draft: ModelDraft, options: Any) -> None:
    """Let attention stay within documents, and count how often it is asked to make a mask."""
    from dataclasses import dataclass

    import torch
    from torchtitan.protocols.module import Module

    from smolrecipe_torchtitan.decoder import CausalAttention

    class Documents(CausalAttention):
        sees_documents = True

        @dataclass(kw_only=True, slots=True)
        class Config(CausalAttention.Config):
            pass

        def build_mask(self, positions: torch.Tensor) -> torch.Tensor:
            MASKS.append(tuple(positions.shape))
            document = (positions == 0).cumsum(1)
            return ((document[:, :, None] == document[:, None, :]).tril())[:, None]

    inner: Module.Config = Documents.Config()
    for layer in draft.decoder.layers:
        layer.attention.inner_attention = inner


FASTER = ModelComponent(
    name="faster",
    summary="",
    apply=turn_faster,
    to_hf=lambda config, options: config["rope_parameters"].update(rope_theta=5e4),
)
SHORT = ModelComponent(
    name="short",
    summary="",
    apply=lambda draft, options: setattr(draft.decoder.layers[0].attention.rope, "max_seq_len", LENGTH // 2),
    to_hf=None,
)
DOCUMENTS = ModelComponent(name="documents", summary="", apply=see_documents, to_hf=lambda config, options: None)
PRIVATE = ModelComponent(name="private", summary="", apply=lambda draft, options: None, to_hf=None)


def make_model(*others: ModelComponent, **changes: Any) -> Model:
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 48, "vocab_size": VOCABULARY}
    components = {"decoder": Use(DECODER, DecoderOptions(**{**sizes, **changes}))}
    return Model({**components, **{other.name: Use(other, NoOptions()) for other in others}})


def make_options(**changes: Any) -> PretrainOptions:
    values: dict[str, Any] = {
        "model": make_model(),
        "tokenizer": StageRef("tokenizer"),
        "data": Use(PACKER, NoOptions()),
        "steps": STEPS,
        "trajectory_steps": TRAJECTORY,
        "sequence_length": LENGTH,
        "global_batch": BATCH,
        "micro_batch": 4,
        "optimizer": Use(ADAM, AdamOptions()),
        "schedule": Use(LINEAR, NoOptions()),
        "precision": "float32",
        "held_out_rows": 7,
        "checkpoint_every": 4,
        "seed": 3,
    }
    return PretrainOptions(**{**values, **changes})


def train(
    folder: Path,
    name: str,
    options: PretrainOptions,
    on_event: Callable[[Mapping[str, Any]], None] = lambda event: None,
    **inputs: Path,
) -> dict[str, Any]:
    """Run a stage in the folder ``name`` and return what there is to know about it."""
    USED.clear()
    READ.clear()
    events: list[dict[str, Any]] = []
    (folder / name).mkdir(exist_ok=True)
    write = MetricsWriter(folder / name / METRICS_FILE)  # what a stage reports, it may read again

    def report(event: Mapping[str, Any]) -> None:
        events.append(dict(event))
        write(event)
        on_event(event)

    context = StageContext(
        recipe="test",
        stage=name,
        folder=folder / name,
        inputs={"tokenizer": folder / "tokenizer", **inputs},
        rank=int(os.environ.get("RANK", "0")),
        world_size=int(os.environ.get("WORLD_SIZE", "1")),
        report=report,
    )
    if context.world_size > 1:
        # A second group of the same processes needs another port; the parent gives a range of them.
        os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 1)
    artifact: Artifact = run(options, context)
    (measure,) = artifact.measures
    return {
        "steps": [event for event in events if "step" in event],
        "said": [event["message"] for event in events if "message" in event],
        "used": list(USED),
        "read": READ[: len(READ) - (context.rank == 0)],  # the last is the row that is published
        "before": measure.before,
        "after": measure.after,
        "summary": dict(artifact.summary),
    }


def refusal(folder: Path, name: str, options: PretrainOptions, **inputs: Path) -> str:
    try:
        train(folder, name, options, **inputs)
    except StageError as error:
        return str(error)
    return "not refused"


def write_tokenizer(folder: Path) -> None:
    """A word-level tokenizer of the made-up vocabulary, as AutoTokenizer loads it."""
    folder.mkdir(parents=True)
    vocabulary = {"<pad>": 0, "<eos>": 1, **{f"w{number}": number for number in range(2, VOCABULARY)}}
    content = {
        "version": "1.0",
        "added_tokens": [],
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<pad>"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(content))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<eos>",
        "pad_token": {"__type": "AddedToken", "content": "<pad>"},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def losses(result: Mapping[str, Any]) -> list[float]:
    return [event["loss"] for event in result["steps"]]


def weights(folder: Path, name: str) -> bytes:
    return (folder / name / "model" / "model.safetensors").read_bytes()


def publish(folder: Path, name: str, result: Mapping[str, Any]) -> Path:
    """Write beside a stage's files what the run store adds, as far as checks read it; returns the artifact."""
    artifact = folder / name
    (artifact / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in result["steps"]))
    told = {"recipe": "test", "stage": name, "kind": "pretrain", "digest": "0" * 64, "parents": {}, "plugins": {}}
    told |= {"options": {"use": "pretrain"}, "started": "", "seconds": 0.0, "measures": []}
    (artifact / "stage.json").write_text(json.dumps({**told, "summary": result["summary"]}))
    return artifact
