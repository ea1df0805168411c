"""From Parquet files of documents to token files: datatrove's steps, a file at a time or several side by side.

The steps are run as datatrove's own executor runs them, but without it: its helper processes outlive a stage that is
killed, and would go on writing into the folder of the one that is started next.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from attrs import frozen
from datatrove.pipeline.readers.parquet import ParquetReader  # noqa: TID253
from datatrove.pipeline.tokens.tokenizer import DocumentTokenizer  # noqa: TID253

from smolrecipe import StageError
from smolrecipe.stage import die_with_parent

_DOCUMENTS_AT_A_TIME = 1000


@frozen(kw_only=True)
class TokenWriter:
    """Makes one token file of each Parquet file in a folder. Names and content depend on the documents and ``seed``."""

    documents: Path
    target: Path
    tokenizer_file: Path
    tokenizer_name: str
    end_of_document: str
    seed: int

    def write_all(self, workers: int, on_file: Callable[[int, int], None]) -> None:
        """Make every file that an earlier attempt has not finished; tell ``on_file`` how many of how many are done.

        Raises:
            StageError: when a worker process dies.
        """
        files = len(list(self.documents.glob("*.parquet")))
        missing = [number for number in range(files) if not self._mark(number).exists()]
        for done, _ in enumerate(self._written(missing, files, workers), start=files - len(missing) + 1):
            on_file(done, files)

    def _written(self, numbers: list[int], files: int, workers: int) -> Iterable[int]:
        """Make the files of these numbers, and yield each number when its file is there."""
        workers = min(workers, len(numbers))
        if workers <= 1:
            yield from (self.write(number, files) for number in numbers)
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool:
            try:
                for future in as_completed(pool.submit(self.write, number, files) for number in numbers):
                    yield future.result()
            except BrokenProcessPool:
                raise StageError(
                    "a tokenising process was killed, most likely for want of memory: use fewer 'workers' or more "
                    "'files'"
                ) from None

    def write(self, number: int, files: int) -> int:
        """Make token file ``number`` of ``files``. What an attempt that was cut short has left of it is overwritten."""
        reader = ParquetReader(str(self.documents), glob_pattern="*.parquet", batch_size=_DOCUMENTS_AT_A_TIME)
        tokenizer = DocumentTokenizer(
            str(self.target),
            str(self.tokenizer_file),
            eos_token=self.end_of_document,
            batch_size=_DOCUMENTS_AT_A_TIME,
            seed=self.seed,
            shuffle_documents=True,
        )
        tokenizer.run(reader.run(rank=number, world_size=files), rank=number, world_size=files)
        for path in self.target.glob(f"{number:05d}_*.metadata"):
            self._name_tokenizer(path)
        self._mark(number).touch()
        return number

    def _mark(self, number: int) -> Path:
        return self.documents / f"{number:05d}.done"

    def _name_tokenizer(self, metadata: Path) -> None:
        """Put the tokenizer's name in place of the path that datatrove notes down, which says nothing elsewhere."""
        first, *rest = metadata.read_text().split("\n")
        metadata.write_text("\n".join([f"{self.tokenizer_name}|{first.rpartition('|')[2]}", *rest]))


def _start_worker() -> None:
    die_with_parent()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core each
