"""The rows of a stage, tokenised once into Arrow files in its folder and mapped into memory from there.

Rank 0 makes them; the other ranks, and a stage that goes on after an interruption, find them there. They lie there
sealed: what an interruption or a disk has damaged is made again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as compute
from attrs import define, frozen
from datasets import Dataset, Features, List, Value  # noqa: TID253
from datasets.arrow_writer import ArrowWriter  # noqa: TID253

from smolrecipe import Source, StageContext, StageError, Use
from smolrecipe.durable import discard
from smolrecipe_trl.conversations import Refusals
from smolrecipe_trl.processes import Processes
from smolrecipe_trl.row_counts import Counts, counts_told
from smolrecipe_trl.row_sample import RowSample
from smolrecipe_trl.row_values import UnusableRowError
from smolrecipe_trl.seals import damage, seal

_BATCH = 512
_BATCH_CHARACTERS = 1 << 23
"""Rows are tokenised in batches, of fewer rows where these are long: a token takes a hundred bytes meanwhile."""
_COUNTS_FILE = "counts.json"
_TRAIN = "train"
_HELD_OUT = "held_out"


Columns = Mapping[str, list[int]]

Prepare = Callable[[list[Any]], list[tuple[Columns | None, Counts]]]
"""Tokenises a batch of rendered rows: the columns of each (``None`` for a row without loss) and its counts."""

Render = Callable[[Any], Any]
"""Renders one row, into something that says how many ``characters`` it has, or raises ``UnusableRowError``."""


@frozen(kw_only=True)
class RowTools:
    """What makes tokens of rows."""

    render: Render
    prepare: Prepare
    prepare_held_out: Prepare
    unread: Mapping[str, int]
    """How many rows gave an argument that the template does not read, by argument."""


@define
class RowFiles:
    """The tokenised rows of a stage: those it trains on, and each held-out source's."""

    train: Dataset
    held_out: dict[str, Dataset]
    counts: dict[str, Counts]
    unread: dict[str, int]
    identity: str
    """Tells rows to train on from other ones: a sha256 of what is in them, in their order."""

    def report(self, context: StageContext) -> None:
        """Say what was truncated, left out or not read."""
        for name, counts in self.counts.items():
            if counts.truncated_rows:
                context.say(
                    f"source '{name}': {counts.truncated_rows} of {counts.rows} rows were longer than max_length and "
                    f"lost {counts.truncated_tokens} tokens"
                )
            if counts.rows_without_loss:
                context.say(
                    f"source '{name}': {counts.rows_without_loss} of {counts.rows} rows have no token to learn and "
                    "were left out"
                )
            if counts.rows_of_equal_answers:
                context.say(
                    f"source '{name}': in {counts.rows_of_equal_answers} of {counts.rows} pairs both answers are the "
                    "same; these were left out"
                )
            if counts.rows_spelling_control_tokens:
                context.say(
                    f"source '{name}': in {counts.rows_spelling_control_tokens} of {counts.rows} rows a message spells "
                    "a control token of the model; these were taken for text"
                )
        for argument, rows in self.unread.items():
            context.say(f"the chat template does not read '{argument}', which {rows} rows give")

    def summary(self) -> dict[str, Any]:
        """The same as counts."""
        return {
            "sources": {name: counts.told() for name, counts in self.counts.items()},
            "arguments_not_read": dict(self.unread),
        }


def row_files(
    context: StageContext,
    processes: Processes,
    folder: Path,
    data: Mapping[str, Use[Source]],
    held_out: Mapping[str, Use[Source]],
    columns: Iterable[str],
    tools: Callable[[], RowTools],
    arrange: Callable[[Dataset, Path], Dataset] | None = None,
) -> RowFiles:
    """The tokenised rows of the sources, made by the first process if they are not in ``folder`` yet.

    Args:
        columns: the names of the rows' columns, each a list of integers.
        tools: makes what renders and tokenises rows; called only where they are made.
        arrange: makes other rows (packed ones) of those to train on and writes them to the path it is given.

    Raises:
        StageError: for rows that cannot be rendered, and for a source of which no row has a token to learn.
        StageStopped: when the stage is asked to stop meanwhile.
    """
    if context.rank == 0:
        with processes.first_works() as look_around:
            if folder.exists() and (reason := damage(folder)) is not None:
                context.say(f"the rows that were prepared before: '{folder.name}' {reason}; they are prepared again")
                discard(folder)
            if not folder.exists():
                _make(folder, data, held_out, columns, tools, arrange, look_around)
    else:
        processes.wait_for_first()
    found = json.loads((folder / _COUNTS_FILE).read_text())
    return RowFiles(
        train=_open(folder, _TRAIN),
        held_out={name: _open(folder, f"{_HELD_OUT}-{number}") for number, name in enumerate(held_out)},
        counts={name: counts_told(counts) for name, counts in found["counts"].items()},
        unread=found["unread"],
        identity=found["identity"],
    )


def _make(
    folder: Path,
    data: Mapping[str, Use[Source]],
    held_out: Mapping[str, Use[Source]],
    columns: Iterable[str],
    tools: Callable[[], RowTools],
    arrange: Callable[[Dataset, Path], Dataset] | None,
    look_around: Callable[[], None],
) -> None:
    """Write all rows beside ``folder`` and rename, so that what lies there is whole."""
    made = tools()
    columns = tuple(columns)
    sample = RowSample(columns)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    features = Features({column: List(Value("int32")) for column in columns})
    refusals = Refusals()
    counts: dict[str, Counts] = {}
    files = {
        _TRAIN: data,
        **{f"{_HELD_OUT}-{number}": {name: use} for number, (name, use) in enumerate(held_out.items())},
    }
    for stem, sources in files.items():
        with ArrowWriter(path=str(partial / f"{stem}.arrow"), features=features) as writer:
            for name, use in sources.items():
                label = name if stem == _TRAIN else f"held_out.{name}"
                counts[label] = Counts()
                prepare = made.prepare if stem == _TRAIN else made.prepare_held_out
                read = _read(use, label, look_around)
                for number, row in _prepared(read, label, made.render, prepare, refusals, counts[label]):
                    sample.add(label, number, row)
                    if row is not None:
                        writer.write(row)
            writer.finalize()
    refusals.raise_if_any()
    for name, count in counts.items():
        _check_something_left(name, count)
    if arrange is not None:
        arrange(_open(partial, _TRAIN), partial / "arranged.arrow")
        (partial / "arranged.arrow").replace(partial / f"{_TRAIN}.arrow")
    sample.write(partial)
    found = {
        "counts": {name: count.told() for name, count in counts.items()},
        "unread": dict(made.unread),
        "identity": _identity(_open(partial, _TRAIN)),
    }
    (partial / _COUNTS_FILE).write_text(json.dumps(found))
    seal(partial)
    partial.rename(folder)


def _prepared(
    rows: Iterable[Any], label: str, render: Render, prepare: Prepare, refusals: Refusals, total: Counts
) -> Iterator[tuple[int, Columns | None]]:
    """Number and columns of each row of a source (``None`` for one that is left out)."""
    numbers: list[int] = []
    batch: list[Any] = []
    characters = 0
    for number, row in enumerate(rows):
        try:
            batch.append(render(row))
            numbers.append(number)
            characters += batch[-1].characters
        except UnusableRowError as reason:
            refusals.add(label, number, reason)
        if len(batch) == _BATCH or characters > _BATCH_CHARACTERS:
            yield from zip(numbers, _counted(prepare(batch), total), strict=True)
            numbers, batch, characters = [], [], 0
    if batch:
        yield from zip(numbers, _counted(prepare(batch), total), strict=True)


def _read(use: Use[Source], label: str, look_around: Callable[[], None]) -> Iterator[Any]:
    """The rows of a source; after each of them, ``look_around`` may end the stage.

    Raises:
        StageError: when there are more, but they cannot be read: a folder is gone, a file is not what it says.
    """
    number = -1
    try:
        for number, row in enumerate(use.component.read(use.options)):  # noqa: B007  it is told below
            yield row
            look_around()
    except (OSError, ValueError) as error:
        raise StageError(f"source '{label}' cannot be read beyond its first {number + 1} row(s): {error}") from error


def _counted(prepared: list[tuple[Columns | None, Counts]], total: Counts) -> Iterator[Columns | None]:
    for columns, counts in prepared:
        total.add(counts)
        yield columns


def _check_something_left(name: str, counts: Counts) -> None:
    if counts.rows == 0:
        raise StageError(f"source '{name}' yields no row")
    if counts.rows_of_equal_answers == counts.rows:
        raise StageError(f"source '{name}': in all of its {counts.rows} pairs both answers are the same")
    if counts.rows_without_loss + counts.rows_of_equal_answers == counts.rows:
        raise StageError(
            f"source '{name}': none of its {counts.rows} rows has a token to learn. Either no row has a turn of the "
            "assistant, or the turns before it fill max_length"
        )


def _open(folder: Path, stem: str) -> Dataset:
    return Dataset.from_file(str(folder / f"{stem}.arrow"))


def _identity(rows: Dataset) -> str:
    """A sha256 of what is in the rows: the files themselves also hold a number that their writer draws."""
    digest = hashlib.sha256()
    for name in sorted(rows.column_names):
        digest.update(name.encode())
        for chunk in rows.data.column(name).chunks:
            digest.update(compute.list_value_length(chunk).to_numpy(zero_copy_only=False).tobytes())
            digest.update(chunk.flatten().to_numpy().tobytes())
    return digest.hexdigest()
