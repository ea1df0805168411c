"""Conversations to training rows: labels, truncation and packing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy
from datasets import Dataset  # noqa: TID253
from pyarrow import compute
from transformers import PreTrainedTokenizerBase  # noqa: TID253
from trl import pack_dataset  # noqa: TID253

from smolrecipe_trl.best_fit import pack_table
from smolrecipe_trl.control_tokens import Rendered
from smolrecipe_trl.options import SftOptions
from smolrecipe_trl.row_counts import Counts
from smolrecipe_trl.row_files import Prepare
from smolrecipe_trl.tokenising import Tokens, tokenise

IGNORED = -100
"""The label of a token that is not learned."""

COLUMNS = ("input_ids", "labels")

_PACKED_AT_ONCE = 2**24
"""Tokens: some hundred MiB. The more, the fuller the rows."""
_LEAST_AT_ONCE = 1000
"""Rows: as many as TRL packs at once."""


def labelled(tokenizer: PreTrainedTokenizerBase, options: SftOptions, *, packing: str | None = None) -> Prepare:
    """What turns rendered conversations into rows of ``input_ids`` and ``labels``, both of the shape (tokens,).

    Labels lie at their own token's place: the engine shifts them. A row's first token follows nothing, so it is not
    learned, except in a wrapped stream, where it follows the row before.
    """
    strategy = packing or options.packing

    def row(tokens: Tokens) -> tuple[dict[str, Any] | None, Counts]:
        ids = tokens.ids
        labels = ids.copy() if options.loss_on == "all" else numpy.where(tokens.marked, ids, IGNORED)
        if strategy != "wrapped":
            labels[:1] = IGNORED
        spells = int(tokens.spells_control_tokens)
        counts = Counts(rows=1, lengths=Counter([len(ids)]), rows_spelling_control_tokens=spells)
        if strategy in ("bfd", "none") and len(ids) > options.max_length:
            counts.truncated_rows, counts.truncated_tokens = 1, len(ids) - options.max_length
            ids, labels = ids[: options.max_length], labels[: options.max_length]
        learned = int((labels != IGNORED).sum())
        if not learned:
            counts.rows_without_loss, counts.dropped_tokens = 1, len(ids)
            return None, counts
        counts.tokens, counts.learned_tokens = len(ids), learned
        return {"input_ids": ids, "labels": labels.astype(numpy.int32)}, counts

    def prepare(batch: list[Rendered]) -> list[tuple[dict[str, Any] | None, Counts]]:
        return [row(tokens) for tokens in tokenise(tokenizer, batch)]

    return prepare


def packed(options: SftOptions) -> Callable[[Dataset, Path], Dataset] | None:
    """What packs rows into rows of at most ``max_length`` tokens, in an order that the seed decides."""
    if options.packing == "none":
        return None

    def arrange(rows: Dataset, path: Path) -> Dataset:
        shuffled = rows.shuffle(seed=options.seed, keep_in_memory=True)
        if options.packing != "wrapped":
            return pack_rows(shuffled, options.max_length, str(path))
        to_file = {"cache_file_name": str(path), "load_from_cache_file": False}
        return pack_dataset(shuffled, options.max_length, options.packing, to_file)

    return arrange


def pack_rows(rows: Dataset, max_length: int, path: str) -> Dataset:
    """Rows of at most ``max_length`` tokens, best fit decreasing, in the file ``path``.

    They are made of ``_PACKED_AT_ONCE`` tokens of ``rows`` at a time, so memory does not grow with their number.
    """
    tokens = compute.sum(compute.list_value_length(rows.data.column(COLUMNS[0]))).as_py()
    return (
        rows.with_format("arrow")
        .map(
            partial(pack_table, capacity=max_length),
            batched=True,
            batch_size=max(_LEAST_AT_ONCE, _PACKED_AT_ONCE * len(rows) // tokens),
            cache_file_name=path,
            load_from_cache_file=False,
        )
        .with_format(None)
    )


def packing_summary(rows: Dataset, max_length: int) -> dict[str, Any]:
    """How full the training rows are, and how many documents in them have nothing to learn (the rest of a long
    conversation that was split inside a turn of the user)."""
    documents = without_loss = learned = tokens = 0
    for batch in rows.with_format("arrow").iter(batch_size=1000):
        labels = batch["labels"].combine_chunks()
        row_lengths = labels.value_lengths().to_numpy(zero_copy_only=False)
        own = batch["seq_lengths"].combine_chunks().flatten().to_numpy() if "seq_lengths" in rows.column_names else None
        lengths = row_lengths if own is None else own
        starts = numpy.concatenate([[0], numpy.cumsum(lengths)[:-1]]).astype(numpy.int64)
        is_learned = labels.flatten().to_numpy() != IGNORED
        is_learned[starts] = False
        per_document = numpy.add.reduceat(is_learned.astype(numpy.int64), starts)
        documents += len(lengths)
        without_loss += int((per_document == 0).sum())
        learned += int(per_document.sum())
        tokens += int(row_lengths.sum())
    return {
        "training_rows": len(rows),
        "documents": documents,
        "documents_without_loss": without_loss,
        "tokens_per_pass": tokens,
        "learned_tokens_per_pass": learned,
        "fill": round(tokens / (len(rows) * max_length), 4),
    }
