"""A decoder shared among four devices that are only pretended: its layout is built and a step traced.

torchtitan's Llama 3 parallelization builds the first device's part on a process group without other processes; the
weights are fake tensors, shapes without content.
"""

# mypy: disable-error-code="import-untyped, misc, no-any-return, no-untyped-call"

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch  # noqa: TID253
import torch.distributed as dist  # noqa: TID253
import torch.distributed._tools.fake_collectives  # noqa: TID253  (collectives on fake tensors)
import torchtitan.tools.utils as titan_utils  # noqa: TID253
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: TID253
from torch.distributed.tensor.debug import _clear_sharding_prop_cache  # noqa: TID253
from torch.testing._internal.distributed.fake_pg import FakeStore  # noqa: TID253
from torchtitan.config import CompileConfig, ParallelismConfig, TrainingConfig  # noqa: TID253
from torchtitan.distributed import ParallelDims  # noqa: TID253
from torchtitan.distributed.spmd_types import annotate_input_spmd_types  # noqa: TID253
from torchtitan.distributed.utils import get_spmd_backend, get_spmd_context, set_spmd_backend  # noqa: TID253
from torchtitan.models.llama3.parallelize import parallelize_llama  # noqa: TID253
from torchtitan.trainer import Trainer  # noqa: TID253

from smolrecipe.testing.decoders import BATCH, logits, on_meta

DEVICES = 4


def trace_sharded(decoder: Any, tensor_parallel: int, length: int) -> list[str]:
    """Build the decoder for ``DEVICES`` devices, go forward and backward once; return parameters without a gradient.

    ``tensor_parallel`` of them share every matrix, the others the batch, weights and optimizer state (FSDP2). The
    decoder's config is written into. No process group is left behind.
    """
    parallelism = ParallelismConfig(
        data_parallel_shard_degree=DEVICES // tensor_parallel, tensor_parallel_degree=tensor_parallel
    )
    training = TrainingConfig(
        seq_len=length, local_batch_size=BATCH, mixed_precision_param="float32", disable_cuda_graphs=True
    )
    decoder.update_from_config(config=Trainer.Config(training=training, parallelism=parallelism))
    with _pretended_processes(parallelism.spmd_backend):
        dims = ParallelDims.from_config(parallelism, DEVICES)
        dims.build_mesh()
        model = parallelize_llama(
            on_meta(decoder),
            parallel_dims=dims,
            training=training,
            parallelism=parallelism,
            compile_config=CompileConfig(enable=False),
            ac_config=None,
            dump_folder="",
        )
        with FakeTensorMode(allow_non_fake_inputs=True):
            model.to_empty(device=titan_utils.device_type)
            with torch.no_grad():
                model.init_weights(buffer_device=None)
            model.train()
            tokens = torch.zeros((BATCH, length), dtype=torch.int64, device=titan_utils.device_type)
            annotate_input_spmd_types(dims, tokens, torch.zeros_like(tokens), {})
            with get_spmd_context(parallel_dims=dims)():
                logits(model, tokens).square().mean().backward()
        return [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]


@contextmanager
def _pretended_processes(backend: str) -> Iterator[None]:
    """A process group of which this is the first process. DTensor's memory of its device mesh goes with it."""
    before, collecting = get_spmd_backend(), gc.isenabled()
    threads = torch.autograd.is_multithreading_enabled()
    level = logging.getLogger().level
    dist.init_process_group("fake", rank=0, world_size=DEVICES, store=FakeStore())
    try:
        set_spmd_backend(backend)
        torch.autograd.set_multithreading_enabled(False)  # as torchtitan does: meshes are known to one thread
        yield
    finally:
        dist.destroy_process_group()
        _clear_sharding_prop_cache()
        set_spmd_backend(before)
        torch.autograd.set_multithreading_enabled(threads)
        logging.getLogger().setLevel(level)
        if collecting:
            gc.enable()
