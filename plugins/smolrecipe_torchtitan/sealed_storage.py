"""PyTorch's distributed checkpoint (DCP) on the format of ``sealed.py``: what it calls storage and planners.

DCP's own storage keeps metadata and all values that are no tensors as pickles. It shares the work and puts shards
together as always; only what it writes and reads is another format.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch  # noqa: TID253
from attrs import frozen
from torch.distributed.checkpoint import (  # noqa: TID253
    DefaultLoadPlanner,
    DefaultSavePlanner,
    LoadPlan,
    LoadPlanner,
    Metadata,
    ReadItem,
    SavePlan,
    SavePlanner,
    StorageReader,
    StorageWriter,
    WriteItem,
)
from torch.distributed.checkpoint.metadata import (  # noqa: TID253
    BytesStorageMetadata,
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadItemType, WriteItemType  # noqa: TID253
from torch.distributed.checkpoint.storage import WriteResult  # noqa: TID253
from torch.futures import Future  # noqa: TID253

from smolrecipe.durable import write_whole
from smolrecipe_torchtitan.sealed import (
    DTYPE_NAMES,
    SEAL,
    Chunk,
    Contents,
    SavedFile,
    SavedTensor,
    TensorFiles,
    chunk_key,
    from_plain,
    read_contents,
    to_plain,
    to_seal,
)


class PlainSavePlanner(DefaultSavePlanner):
    """DCP's, with values that are no tensors as JSON."""

    def transform_object(self, write_item: WriteItem, object: Any) -> Any:
        """What is to be written of a value.

        Raises:
            StageError: for a value that only a pickle could hold.
        """
        if write_item.type == WriteItemType.BYTE_IO:
            return io.BytesIO(json.dumps(to_plain(write_item.index.fqn, object)).encode())
        return super().transform_object(write_item, object)


class PlainLoadPlanner(DefaultLoadPlanner):
    """DCP's, with values that are no tensors as JSON."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Put a value where it belongs in the state that is being loaded."""
        *path, last = self.mappings[read_item.dest_index.fqn]
        holder: Any = self.original_state_dict
        for key in path:
            holder = holder[key]
        holder[last] = from_plain(json.loads(value.read()))


@frozen
class _Part:
    """What a process says of a tensor's part that it wrote: the file, as a whole."""

    name: str
    file: SavedFile


class SealedWriter(StorageWriter):
    """Writes one checkpoint. The first process seals it once all others have said that their files are on the disk, and
    calls ``sealed`` then."""

    def __init__(self, folder: Path, sealed: Callable[[], None] = lambda: None) -> None:
        self.folder = folder
        self._sealed = sealed
        self._rank = 0

    def reset(self, checkpoint_id: Any = None) -> None:
        """Nothing: a writer is for one checkpoint."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Learn which process this is."""
        self._rank = kwargs["rank"]

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Make the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """As they are."""
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this process' tensors into its file, and hand its values on to the first process."""
        results = []
        tensors = []
        for item in plan.items:
            if item.type == WriteItemType.BYTE_IO:
                value: Any = planner.resolve_data(item)
                results.append(WriteResult(item.index, 0, from_plain(json.loads(value.getvalue()))))
            else:
                tensors.append(item)
        if tensors:
            name = f"process-{self._rank}.safetensors"
            part = _Part(name, _write_tensors(self.folder / name, tensors, planner))
            results += [WriteResult(item.index, 0, part) for item in tensors]
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Seal the checkpoint. DCP calls this on the first process, when all have written."""
        written = {result.index: result.storage_data for every in results for result in every}
        parts = [part for part in written.values() if isinstance(part, _Part)]
        tensors, values = {}, {}
        for name, entry in metadata.state_dict_metadata.items():
            if isinstance(entry, TensorStorageMetadata):
                chunks = tuple(
                    Chunk(tuple(chunk.offsets), tuple(chunk.sizes), written[MetadataIndex(name, chunk.offsets)].name)
                    for chunk in entry.chunks
                )
                tensors[name] = SavedTensor(entry.properties.dtype, tuple(entry.size), chunks)
            else:
                values[name] = written[MetadataIndex(name)]
        files = {part.name: part.file for part in parts}
        write_whole(self.folder / SEAL, to_seal(Contents(tensors=tensors, values=values, files=files)))
        self._sealed()

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """Writers are made for a folder; DCP is never asked to find one."""
        return False


def _write_tensors(path: Path, items: Sequence[WriteItem], planner: SavePlanner) -> SavedFile:
    """Write a safetensors file tensor by tensor: safetensors itself would want all of them in memory at once."""
    header: dict[str, Any] = {}
    end = 0
    for item in items:
        data: Any = item.tensor_data
        start, end = end, end + data.chunk.sizes.numel() * data.properties.dtype.itemsize
        header[chunk_key(item.index.fqn, data.chunk.offsets)] = {
            "dtype": DTYPE_NAMES[data.properties.dtype],
            "shape": list(data.chunk.sizes),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:

        def put(content: Any) -> None:
            file.write(content)
            digest.update(content)

        put(len(text).to_bytes(8, "little"))
        put(text)
        for item in items:
            tensor: Any = planner.resolve_data(item)
            put(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        file.flush()
        os.fsync(file.fileno())
        return SavedFile(file.tell(), digest.hexdigest())


class SealedReader(StorageReader):
    """Reads one checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._contents: Contents | None = None

    @property
    def contents(self) -> Contents:
        """What the checkpoint holds, read once."""
        if self._contents is None:
            self._contents = read_contents(self.folder)
        return self._contents

    def reset(self, checkpoint_id: Any = None) -> None:
        """Nothing: a reader is for one checkpoint."""

    def read_metadata(self) -> Metadata:
        """What the checkpoint holds, in DCP's words."""
        held: dict[str, Any] = {name: BytesStorageMetadata() for name in self.contents.values}
        for name, tensor in self.contents.tensors.items():
            held[name] = TensorStorageMetadata(
                properties=TensorProperties(dtype=tensor.dtype),
                size=torch.Size(tensor.shape),
                chunks=[
                    ChunkStorageMetadata(torch.Size(chunk.offsets), torch.Size(chunk.shape)) for chunk in tensor.chunks
                ],
            )
        return Metadata(held)

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool) -> None:
        """Nothing that ``read_metadata`` has not done."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """As it is."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """As they are."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Read what the plan asks for."""
        files = TensorFiles(self.folder)
        for item in plan.items:
            name = item.storage_index.fqn
            if item.type == LoadItemType.BYTE_IO:
                value = to_plain(name, self.contents.values[name])
                planner.load_bytes(item, io.BytesIO(json.dumps(value).encode()))
                continue
            offsets = tuple(item.storage_index.offset or ())
            chunk = next(chunk for chunk in self.contents.tensors[name].chunks if chunk.offsets == offsets)
            target = planner.resolve_tensor(item).detach()
            target.copy_(files.read(chunk, name, item.storage_offsets, item.lengths))
            planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        """Readers are made for a folder; DCP is never asked to find one."""
        return False
