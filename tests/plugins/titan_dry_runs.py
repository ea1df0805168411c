"""Pretraining stages to build without weights and to train for real, and the process that measures both.

torchtitan takes over a process: ``python titan_dry_runs.py FOLDER`` is one for all of them, and writes
``FOLDER/results.json``.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

from attrs import asdict, frozen

from smolrecipe import (
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
    Use,
)
from smolrecipe_torchtitan import DecoderOptions, ParallelismOptions, PretrainOptions
from smolrecipe_torchtitan import smolrecipe_model_components as model_components
from smolrecipe_torchtitan import smolrecipe_stages as stages

WIDTH, LAYERS, HEADS, HEAD, HIDDEN, VOCAB = 64, 3, 4, 16, 96, 128
LENGTH, SAMPLES = 64, 2
FLOAT, LONG = 4, 8
"""Bytes of a float32 and of a token's number."""

# --- what a recipe would get from other plugins -----------------------------------------------------------------------


@frozen(kw_only=True)
class OptimizerOptions:
    kind: str = "fused"


def optimizer_class(options: OptimizerOptions) -> type:
    import torch

    class RowMeans(torch.optim.Optimizer):
        """Keeps one number for each row: a third party's idea of a state."""

        def __init__(self, params: Any, lr: float = 0.1) -> None:
            super().__init__(params, {"lr": lr})

        @torch.no_grad()
        def step(self, closure: Any = None) -> None:
            for group in self.param_groups:
                for parameter in group["params"]:
                    self.state[parameter]["rows"] = [parameter.grad.reshape(parameter.shape[0], -1).mean(dim=1)]

    return {"momentum": torch.optim.SGD, "rows": RowMeans}.get(options.kind, torch.optim.AdamW)


def optimizer_groups(options: OptimizerOptions) -> list[ParameterGroup]:
    own = {"fused": {"fused": True}, "foreach": {"foreach": True}, "momentum": {"momentum": 0.9}, "rows": {}}
    return [ParameterGroup(pattern=".", settings={"lr": 1e-3, **own[options.kind]})]


def use_optimizer(kind: str) -> Use[Optimizer]:
    optimizer = Optimizer(
        name="o", summary="", options=OptimizerOptions, factory=optimizer_class, groups=optimizer_groups
    )
    return Use(optimizer, OptimizerOptions(kind=kind))


def peek(draft: ModelDraft, options: Any) -> None:
    """Attention that reads a number from its input, which no dry run can know."""
    from dataclasses import dataclass

    from smolrecipe_torchtitan.decoder import CausalAttention

    class Peeking(CausalAttention):
        @dataclass(kw_only=True, slots=True)
        class Config(CausalAttention.Config):
            pass

        def forward(self, q_BLNH: Any, k_BLNH: Any, v_BLNH: Any, **kwargs: Any) -> Any:
            q_BLNH[0, 0, 0, 0].item()
            return super().forward(q_BLNH, k_BLNH, v_BLNH, **kwargs)

    for layer in draft.decoder.layers:
        layer.attention.inner_attention = Peeking.Config()


(DECODER,) = model_components()
(PRETRAIN,) = stages()
PEEK = ModelComponent(name="peek", summary="", apply=peek, to_hf=None)


def make_options(*components: ModelComponent, tied: bool = True, **changes: Any) -> PretrainOptions:
    decoder = DecoderOptions(
        hidden_size=WIDTH,
        num_layers=LAYERS,
        num_heads=HEADS,
        intermediate_size=HIDDEN,
        vocab_size=VOCAB,
        tie_embeddings=tied,
    )
    layout = {name: changes.pop(name) for name in list(changes) if hasattr(ParallelismOptions(), name)}
    values: dict[str, Any] = {
        "model": Model(
            {"decoder": Use(DECODER, decoder), **{other.name: Use(other, NoOptions()) for other in components}}
        ),
        "tokenizer": StageRef("tokenizer"),
        "data": Use(Packer(name="none", summary="", open=lambda *args: None), NoOptions()),
        "steps": 7,
        "sequence_length": LENGTH,
        "global_batch": 8,
        "micro_batch": SAMPLES,
        "optimizer": use_optimizer("fused"),
        "schedule": Use(Schedule(name="flat", summary="", factor=lambda options, step, steps: 1.0), NoOptions()),
        "precision": "float32",
        "parallelism": ParallelismOptions(**layout),
    }
    return PretrainOptions(**{**values, **changes})


CASES: dict[str, PretrainOptions] = {
    "alone": make_options(),
    "untied": make_options(tied=False),
    "half": make_options(precision="bfloat16"),
    "recomputed": make_options(activation_checkpointing="full"),
    "chunked": make_options(loss_chunks=4),
    "foreach": make_options(optimizer=use_optimizer("foreach")),
    "momentum": make_options(optimizer=use_optimizer("momentum")),
    "rows": make_options(optimizer=use_optimizer("rows")),
}
"""Stages for one CPU, which are also run for real."""

GPU = {"device": "cuda", "precision": "bfloat16"}
LAYOUTS: dict[str, PretrainOptions] = {
    "one GPU": make_options(**GPU),
    "larger batch": make_options(**GPU, micro_batch=4),
    "selective": make_options(**GPU, activation_checkpointing="selective"),
    "full": make_options(**GPU, activation_checkpointing="full"),
    "chunked on a GPU": make_options(**GPU, loss_chunks=4),
    "fsdp": make_options(**GPU, data_parallel=4),
    "replicas": make_options(**GPU, replicas=4),
    "hsdp": make_options(**GPU, replicas=2, data_parallel=2),
    "tp": make_options(**GPU, tensor_parallel=2),
    "tp, replicas": make_options(**GPU, tensor_parallel=2, replicas=4),
    "tp, whole sequences": make_options(**GPU, tensor_parallel=2, sequence_parallel=False),
    "cp": make_options(**GPU, context_parallel=2),
    "cp, tp, replicas": make_options(**GPU, context_parallel=2, tensor_parallel=2, replicas=2),
    "many": make_options(**GPU, replicas=4, tensor_parallel=2, context_parallel=4, data_parallel=2, global_batch=16),
}

REFUSED: dict[str, PretrainOptions] = {
    "heads": make_options(**GPU, tensor_parallel=8),
    "batch": make_options(**GPU, replicas=3),
    "pipeline": make_options(**GPU, pipeline_parallel=2, tied=False),
    "peeks": make_options(PEEK),
}

# --- the process that measures ----------------------------------------------------------------------------------------


def real(options: PretrainOptions, folder: Path) -> dict[str, int]:
    """Bytes of a real step of one micro-batch, told by autograd's own hooks and by the tensors that are there after."""
    import torch
    import torch.distributed as dist

    from smolrecipe_torchtitan.assemble import draft_model, trainer_config
    from smolrecipe_torchtitan.start import Start

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    context = StageContext(recipe="test", stage="real", folder=folder)
    unread: Any = None
    config = trainer_config(options, context, model=draft_model(options), rows=unread, start=Start(), names=None)
    config.checkpoint.enable = False
    trainer = config.build()
    (model,) = trainer.model_parts

    def size(tensors: Any) -> int:
        local = [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]
        return sum({tensor.data_ptr(): tensor.untyped_storage().nbytes() for tensor in local}.values())

    # Held here, so that no address is used twice. FSDP frees gathered weights, which autograd keeps views of.
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    weights = size([*model.parameters(), *model.buffers()])
    held = {tensor.untyped_storage().data_ptr() for tensor in model.buffers()}
    batch = {name: torch.zeros((options.micro_batch, LENGTH), dtype=torch.int64) for name in ("input", "positions")}
    labels = torch.zeros((options.micro_batch, LENGTH), dtype=torch.int64)
    inputs, labels, extra = trainer.post_dataloading_process(batch, labels)
    with trainer.train_context():
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss, _ = trainer.loss_fn(model(inputs, **extra), labels, torch.ones(()), positions=extra["positions"])
        for tensor in (inputs, labels, extra["positions"], loss):
            keep(tensor)
        for parameter in model.parameters():
            held.add(
                (parameter.to_local() if hasattr(parameter, "to_local") else parameter).untyped_storage().data_ptr()
            )
        activations = sum(storage.nbytes() for pointer, storage in kept.items() if pointer not in held)
        loss.backward()
    trainer.optimizers.step()
    gradients = [parameter.grad.to_local() for parameter in model.parameters()]
    pointers = {gradient.untyped_storage().data_ptr(): gradient.untyped_storage() for gradient in gradients}
    state = [
        tensor
        for optimizer in trainer.optimizers
        for entry in optimizer.state.values()
        for value in entry.values()
        for tensor in (value if isinstance(value, list) else [value])
    ]
    trainer.close()
    dist.destroy_process_group()
    return {
        "weights": weights,
        "gradients": sum(storage.nbytes() for storage in pointers.values()),
        "optimizer": size(state),
        "activations": activations,
    }


def measure(folder: Path) -> dict[str, Any]:
    dry: Any = PRETRAIN.dry_run

    def refusal(options: PretrainOptions) -> str:
        try:
            dry(options)
        except StageError as error:
            return str(error)
        return "not refused"

    results: dict[str, Any] = {
        "dry": {name: asdict(dry(options)) for name, options in CASES.items()},
        "layouts": {name: asdict(dry(options)) for name, options in LAYOUTS.items()},
        "refused": {name: refusal(options) for name, options in REFUSED.items()},
    }
    import torch
    import torch.distributed as dist
    from torch.nn import functional

    from smolrecipe_torchtitan.assemble import draft_model
    from smolrecipe_torchtitan.layout import trace

    results["peak"] = {
        name: asdict(trace(LAYOUTS[name], draft_model(LAYOUTS[name]))) for name in ("tp, replicas", "full")
    }
    rows = torch.randn(2, 8, requires_grad=True)
    results["after"] = {
        "norm": float((functional.rms_norm(rows, (8,)).square().mean() - 1).abs().detach()),
        "group": dist.is_initialized(),
        "world": os.environ.get("WORLD_SIZE"),
    }
    results["real"] = {name: real(options, folder) for name, options in CASES.items()}
    return results


if __name__ == "__main__":
    target = Path(sys.argv[1])
    (target / "results.json").write_text(json.dumps(measure(target)))
