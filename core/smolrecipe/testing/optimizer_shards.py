"""Weights that two devices hold a half of each, in one process: FSDP2's layout, with every half computed for real."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist  # noqa: TID253
from torch import Tensor  # noqa: TID253
from torch.distributed._local_tensor import LocalTensorMode  # noqa: TID253
from torch.distributed.device_mesh import init_device_mesh  # noqa: TID253
from torch.distributed.tensor import Shard, distribute_tensor  # noqa: TID253
from torch.distributed.tensor.debug import _clear_sharding_prop_cache  # noqa: TID253
from torch.testing._internal.distributed.fake_pg import FakeStore  # noqa: TID253

DEVICES = 2


@contextmanager
def two_devices() -> Iterator[tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]]:
    """Give ``share(tensor)``, which shares a tensor along its first dimension, and ``gather``, the way back.

    A ``LocalTensor`` holds the halves of both devices and runs every operation and collective on each of them, so what
    one device would compute from its half alone comes out as it would there. No process group is left behind.

    Raises:
        RuntimeError: when this process has a process group already.
    """
    if dist.is_initialized():
        raise RuntimeError("this process has a process group already: destroy it before optimizers are checked")
    dist.init_process_group("fake", rank=0, world_size=DEVICES, store=FakeStore())
    try:
        mesh = init_device_mesh("cpu", (DEVICES,))

        def share(tensor: Tensor) -> Tensor:
            return distribute_tensor(tensor, mesh, [Shard(0)])

        def gather(tensor: Tensor) -> Tensor:
            whole: Any = tensor
            agreed: Tensor = whole.full_tensor().reconcile()
            return agreed

        with LocalTensorMode(DEVICES):
            yield share, gather
    finally:
        dist.destroy_process_group()
        _clear_sharding_prop_cache()  # type: ignore[no-untyped-call]
