"""Which tensor storages are alive, and how large they are, while a program runs on fake tensors."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch  # noqa: TID253
from torch.distributed.tensor import DTensor  # noqa: TID253
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: TID253
from torch.utils._pytree import tree_leaves  # noqa: TID253


def storages(tensors: Iterable[Any]) -> dict[int, torch.UntypedStorage]:
    """The storages behind ``tensors`` by their identity, each once; of a distributed tensor, this process' part."""
    found = {}
    for tensor in tensors:
        if isinstance(tensor, torch.Tensor):
            local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
            storage = local.untyped_storage()
            found[storage._cdata] = storage
    return found


def storage_bytes(tensors: Iterable[Any]) -> int:
    """What ``tensors`` occupy in this process; views of one storage count once."""
    return sum(storage.nbytes() for storage in storages(tensors).values())


class LiveMemory(TorchDispatchMode):
    """While active, notes when a storage appears, is resized (as FSDP2 does to free gathered weights) and goes.

    Every storage gets a number of its own. Operations on distributed tensors are seen as those on local ones, but
    DTensor also allocates whole tensors (fake ones in every run) to find out what an operation returns, which are not
    told apart: watch no such operations.
    """

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[int, int]] = []
        """(number of the storage, change of its size in bytes), in their order."""
        self._sizes: dict[int, int] = {}
        self._numbers: dict[int, int] = {}
        self._watched: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Collection[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operation and note its results."""
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented
        result = func(*args, **(kwargs or {}))
        self.note(tree_leaves(result))
        return result

    def note(self, tensors: Iterable[Any]) -> set[int]:
        """The numbers of the storages behind ``tensors``, which are noted if they are new."""
        return {self._number(storage) for storage in storages(tensors).values()}

    def _number(self, storage: torch.UntypedStorage) -> int:
        key = storage._cdata
        if key not in self._numbers:
            number = self._numbers[key] = len(self._watched)
            self._watched[number] = weakref.ref(storage, partial(self._gone, key))
            self._resized(number, storage.nbytes())
        return self._numbers[key]

    def _gone(self, key: int, reference: Any) -> None:
        self._resized(self._numbers.pop(key), 0)

    def _resized(self, number: int, size: int) -> None:
        change = size - self._sizes.get(number, 0)
        self._sizes[number] = size
        if change:
            self.events.append((number, change))

    @contextmanager
    def watching(self) -> Iterator[LiveMemory]:
        """Watch what runs inside, resizing of storages included, which does not pass through the dispatcher."""
        original: Callable[..., Any] = torch.UntypedStorage.resize_

        def resize(storage: torch.UntypedStorage, size: int) -> Any:
            number = self._number(storage)
            result = original(storage, size)
            self._resized(number, size)
            return result

        torch.UntypedStorage.resize_ = resize  # type: ignore[method-assign]
        try:
            with self:
                yield self
        finally:
            torch.UntypedStorage.resize_ = original  # type: ignore[method-assign]

    def live(self) -> dict[int, int]:
        """The sizes of the storages that are alive now, by their numbers."""
        return {number: size for number, size in self._sizes.items() if size}

    def peak(self, without: Collection[int] = ()) -> int:
        """The most bytes that were alive at once, leaving out the storages of those numbers."""
        highest = current = 0
        for number, change in self.events:
            if number not in without:
                current += change
                highest = max(highest, current)
        return highest


class ReadOne(TorchDispatchMode):
    """While active, a number that a program reads from a tensor, which a fake tensor does not have, is 1."""

    def __torch_dispatch__(
        self, func: Any, types: Collection[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Answer reads, and run everything else."""
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1.0 if args[0].is_floating_point() else 1
        return func(*args, **(kwargs or {}))
