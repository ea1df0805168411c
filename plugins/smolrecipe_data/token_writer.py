"""From Parquet files of documents to token files: datatrove's tokeniser, a file at a time or several side by side.

It is run as datatrove's own executor runs it, but without that: its helper processes outlive a stage that is killed,
and would go on writing into the folder of the one that is started next.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pyarrow.parquet
from attrs import frozen
from datatrove.data import Document  # noqa: TID253
from datatrove.pipeline.tokens.tokenizer import DocumentTokenizer  # noqa: TID253
from fsspec.implementations.local import LocalFileSystem

from smolrecipe import StageError
from smolrecipe.stage import die_with_parent
from smolrecipe_data.seals import damage, describe, read_sealed, write_sealed
from smolrecipe_data.tokenizer_files import rust_errors

_MOST_DOCUMENTS_AT_A_TIME = 1000
_BYTES_AT_A_TIME = 2**24  # a tokenised text takes some hundred bytes of memory for each of its own

_Files = dict[str, dict[str, Any]]


@frozen(kw_only=True)
class TokenWriter:
    """Makes one token file of each Parquet file in a folder. Names and content depend on the documents and ``seed``.

    In documents the names of control tokens are text like any other. Otherwise whoever writes a document decides where
    it ends, or speaks in somebody else's turn.
    """

    documents: Path
    target: Path
    tokenizer_file: Path
    tokenizer_name: str
    end_of_document: str
    seed: int

    def write_all(self, workers: int, on_file: Callable[[int, int], None]) -> _Files:
        """Make every file that an earlier attempt has not finished; tell ``on_file`` how many of how many are done.

        Whatever else lies in the target's folder is deleted.

        Returns:
            What the folder holds now: ``seals.describe``.

        Raises:
            StageError: when a worker process dies.
        """
        files = len(list(self.documents.glob("*.parquet")))
        finished = {number: found for number in range(files) if (found := self._finished(number)) is not None}
        self._delete_all_but({name for found in finished.values() for name in found})
        missing = [number for number in range(files) if number not in finished]
        for number, found in self._written(missing, workers):
            finished[number] = found
            on_file(len(finished), files)
        return {name: described for _, found in sorted(finished.items()) for name, described in found.items()}

    def _written(self, numbers: list[int], workers: int) -> Iterable[tuple[int, _Files]]:
        """Make the files of these numbers, and yield each number with what was made when it is there."""
        workers = min(workers, len(numbers))
        if workers <= 1:
            yield from ((number, self.write(number)) for number in numbers)
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
            futures = {pool.submit(self.write, number): number for number in numbers}
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
            except BrokenProcessPool:
                raise StageError(
                    "a tokenising process was killed, most likely for want of memory: use fewer 'workers' or more "
                    "'files'"
                ) from None
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def write(self, number: int) -> _Files:
        """Make token file ``number``, and say what was made."""
        target = (str(self.target), LocalFileSystem())
        with pyarrow.parquet.ParquetFile(sorted(self.documents.glob("*.parquet"))[number]) as parquet:
            at_a_time = _documents_at_a_time(parquet.metadata)
            tokenizer = DocumentTokenizer(
                target,
                str(self.tokenizer_file),
                eos_token=self.end_of_document,
                batch_size=at_a_time,
                seed=self.seed,
                shuffle_documents=True,
            )
            with rust_errors(f"the tokenizer of stage '{self.tokenizer_name}' fails on a document"):
                tokenizer.tokenizer.encode_special_tokens = True
                tokenizer.tokenizer_name_or_path = self.tokenizer_name  # for .metadata: the path says nothing elsewhere
                tokenizer.run(_documents(parquet, at_a_time), rank=number)
        made = describe(self.target, self.target.glob(f"{number:05d}_*"))
        write_sealed(self._mark(number), {"files": made})
        return made

    def _finished(self, number: int) -> _Files | None:
        """What an earlier attempt has made of this number; ``None`` where that is not whole."""
        sealed = read_sealed(self._mark(number))
        return None if sealed is None or damage(self.target, sealed["files"]) else sealed["files"]

    def _delete_all_but(self, names: set[str]) -> None:
        for path in self.target.iterdir() if self.target.is_dir() else ():
            if path.name not in names:
                path.unlink()

    def _mark(self, number: int) -> Path:
        return self.documents / f"{number:05d}.done"


def _documents_at_a_time(metadata: Any) -> int:
    size = sum(metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
    return max(1, min(_MOST_DOCUMENTS_AT_A_TIME, metadata.num_rows * _BYTES_AT_A_TIME // max(1, size)))


def _documents(parquet: Any, at_a_time: int) -> Iterator[Document]:
    number = 0
    for batch in parquet.iter_batches(at_a_time, use_threads=False):
        for text in batch.column("text"):
            yield Document(text=text.as_py(), id=str(number))
            number += 1


def _start_worker() -> None:
    die_with_parent()
    parent = multiprocessing.parent_process()
    if parent is None or os.getppid() != parent.pid:
        os._exit(1)  # it died while this process started, and nobody else would end it
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core each
