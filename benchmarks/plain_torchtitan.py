"""Plain torchtitan on rows of tokens: its own trainer, configuration and parts, as a script of a user's.

    python benchmarks/plain_torchtitan.py work.json

``work.json`` says how large the model is, where the rows are and how many steps to make; ``pretraining.py`` writes it.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from smolrecipe.testing.titan import use_cpu_without_gpu
from turns import Gate

if not torch.cuda.is_available():  # torchtitan takes the device for a GPU otherwise; before its other modules
    use_cpu_without_gpu()

from torch import nn
from torch.utils.data import IterableDataset
from torchtitan.components.checkpointer import CheckpointManager
from torchtitan.components.dataloader import ParallelAwareDataloader
from torchtitan.components.loss import CrossEntropyLoss
from torchtitan.components.metrics import MetricsProcessor
from torchtitan.components.optimizer import (
    LRSchedulersContainer,
    OptimizersContainer,
    ParamGroupConfig,
)
from torchtitan.components.tokenizer import BaseTokenizer
from torchtitan.config import CommConfig, DebugConfig, TrainingConfig
from torchtitan.distributed.pipeline_parallel import pipeline_llm
from torchtitan.models.common import CosSinRoPE, Embedding, Linear, RMSNorm
from torchtitan.models.common.attention import ScaledDotProductAttention
from torchtitan.models.common.config_utils import make_ffn_config, make_gqa_config
from torchtitan.models.common.param_init import skip_param_init
from torchtitan.models.llama3.model import Llama3Model, Llama3TransformerBlock
from torchtitan.models.llama3.parallelize import parallelize_llama
from torchtitan.protocols.model_spec import ModelSpec
from torchtitan.trainer import Trainer


class Rows(IterableDataset):
    """Rows from a file, one after the other."""

    def __init__(self, file: str) -> None:
        self.rows = np.load(file, mmap_mode="r")

    def __iter__(self):
        positions = torch.arange(self.rows.shape[2])
        for inputs, labels in self.rows:
            yield {"input": torch.from_numpy(inputs.copy()), "positions": positions}, torch.from_numpy(labels.copy())


class RowLoader(ParallelAwareDataloader):
    """torchtitan's own loader over them."""

    @dataclass(kw_only=True, slots=True)
    class Config(ParallelAwareDataloader.Config):
        """Where the rows are."""

        file: str = ""

    def __init__(self, config: Config, *, dp_world_size: int, dp_rank: int, local_batch_size: int, **_: Any) -> None:
        rows = Rows(config.file)
        super().__init__(rows, dp_rank=dp_rank, dp_world_size=dp_world_size, batch_size=local_batch_size)


class NoTokenizer(BaseTokenizer):
    """The rows are tokens already."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseTokenizer.Config):
        """Nothing to configure."""

    def __init__(self, config: Config, **_: Any) -> None:
        self.eos_id = 0

    def encode(self, *_: Any, **__: Any) -> list[int]:
        """Not called."""
        raise NotImplementedError

    def decode(self, *_: Any, **__: Any) -> str:
        """Not called."""
        raise NotImplementedError

    def get_vocab_size(self) -> int:
        """Not called."""
        raise NotImplementedError


class GatedMetrics(MetricsProcessor):
    """torchtitan's, and a turn to wait for when a step is logged."""

    @dataclass(kw_only=True, slots=True)
    class Config(MetricsProcessor.Config):
        """torchtitan's."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.gate = Gate()

    def log(self, *arguments: Any, **named: Any) -> None:
        """Log, then wait."""
        super().log(*arguments, **named)
        self.gate.step_done()


def model_of(size: dict[str, int], length: int) -> Llama3Model.Config:
    """A Llama of that size, of torchtitan's parts."""
    weights, ones = {"weight": partial(nn.init.normal_, std=0.02)}, {"weight": nn.init.ones_}
    width = size["hidden_size"]
    layers = [
        Llama3TransformerBlock.Config(
            attention_norm=RMSNorm.Config(normalized_shape=width, param_init=ones),
            ffn_norm=RMSNorm.Config(normalized_shape=width, param_init=ones),
            attention=make_gqa_config(
                dim=width,
                n_heads=size["num_heads"],
                n_kv_heads=size["num_kv_heads"],
                wqkv_param_init=weights,
                wo_param_init=weights,
                inner_attention=ScaledDotProductAttention.Config(),
                rope=CosSinRoPE.Config(dim=width // size["num_heads"], max_seq_len=length),
            ),
            feed_forward=make_ffn_config(
                dim=width, hidden_dim=size["intermediate_size"], w1_param_init=weights, w2w3_param_init=weights
            ),
        )
        for _ in range(size["num_layers"])
    ]
    return Llama3Model.Config(
        dim=width,
        vocab_size=size["vocab_size"],
        enable_weight_tying=True,
        tok_embeddings=Embedding.Config(
            num_embeddings=size["vocab_size"], embedding_dim=width, param_init={"weight": skip_param_init}
        ),
        norm=RMSNorm.Config(normalized_shape=width, param_init=ones),
        lm_head=Linear.Config(in_features=width, out_features=size["vocab_size"], param_init=weights),
        layers=layers,
    )


def main() -> None:
    """Train."""
    work = json.loads(Path(sys.argv[1]).read_text())
    model = model_of(work["size"], work["length"])
    adamw = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8}
    config = Trainer.Config(
        model_spec=ModelSpec(
            name="llama3",
            flavor="benchmark",
            model=model,
            parallelize_fn=parallelize_llama,
            pipelining_fn=pipeline_llm,
            post_optimizer_build_fn=None,
            state_dict_adapter=None,
        ),
        dump_folder=work["folder"],
        hf_assets_path="",
        tokenizer=NoTokenizer.Config(),
        dataloader=RowLoader.Config(file=work["rows"]),
        loss=CrossEntropyLoss.Config(global_vocab_size=model.vocab_size),
        optimizer=OptimizersContainer.Config(
            param_groups=[
                ParamGroupConfig(
                    pattern=r"tok_embeddings|lm_head",
                    optimizer_name="AdamW",
                    optimizer_kwargs=adamw | {"weight_decay": 0},
                ),
                ParamGroupConfig(pattern=r".*", optimizer_name="AdamW", optimizer_kwargs=adamw | {"weight_decay": 0.1}),
            ]
        ),
        lr_scheduler=LRSchedulersContainer.Config(warmup_steps=10),
        training=TrainingConfig(
            local_batch_size=work["batch"],
            global_batch_size=work["batch"],
            seq_len=work["length"],
            steps=work["steps"],
            mixed_precision_param="float32",
            disable_cuda_graphs=True,
        ),
        metrics=GatedMetrics.Config(log_freq=1),
        debug=DebugConfig(seed=0),
        comm=CommConfig(trace_buf_size=0),
        activation_checkpoint=None,
        checkpoint=CheckpointManager.Config(enable=False),
    )
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    trainer = config.build()
    try:
        trainer.train()
    finally:
        trainer.close()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
