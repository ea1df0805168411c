"""A pretraining stage's own training rows: their labels, and documents that do not see each other.

The trained model computes a few pieces of packed rows in float32 on the CPU. Tokens of one document are exchanged: a
model that keeps documents apart then gives every other document the same logits to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch  # noqa: TID253
from pyarrow import parquet
from torchtitan.components.loss import IGNORE_INDEX  # noqa: TID253

from smolrecipe import ModelDraft, Proof, StageContext, TokenRow, TokenRows
from smolrecipe.stage import TOKENIZER_FOLDER
from smolrecipe_torchtitan.decoder import sees_documents
from smolrecipe_torchtitan.options import PretrainOptions
from smolrecipe_torchtitan.proofs.cpu_model import build_with
from smolrecipe_torchtitan.row_sample import SAMPLE_FILE, name_of
from smolrecipe_torchtitan.samples import collate
from smolrecipe_torchtitan.start import Start
from smolrecipe_torchtitan.tokenizer import read_tokenizer

ROWS, TOKENS = 64, 500_000
"""Training rows whose labels are looked at, and how many tokens they may have together."""

PIECES = 4
"""Pieces of rows that the model computes."""

PIECE = 256
"""Tokens of a piece at most: a dense mask is quadratic in them, and logits are wide."""


def verify_rows(
    options: PretrainOptions,
    context: StageContext,
    start: Start,
    draft: ModelDraft,
    weights: Mapping[str, torch.Tensor],
) -> Iterator[Proof]:
    """Yield what is found of the first rows that the stage was trained on."""
    rows = options.data.component.open(
        options.data.options, context, options.sequence_length, options.seed, start.position
    )
    count = min(ROWS, options.steps * options.global_batch, max(1, TOKENS // options.sequence_length))
    sample = [rows.row(number) for number in range(count)]
    special = read_tokenizer(context.input(options.tokenizer, TOKENIZER_FOLDER)).special
    documents = sees_documents(draft.decoder)
    yield _published(context.folder / SAMPLE_FILE, rows, options.steps * options.global_batch)
    yield from labels_of_rows(sample, restart_positions=documents, eos=special["eos_token"], pad=special["pad_token"])
    if documents:
        model = build_with(draft, {name: weight.float() for name, weight in weights.items()})
        yield from documents_apart(model, pieces_of(sample), draft.decoder.vocab_size)


def _published(path: Path, rows: TokenRows, samples: int) -> Proof:
    """The rows that were published to be looked at, token by token, against what the packer gives now."""
    claim = "published rows are those trained on"
    if not path.is_file():
        return Proof(claim=claim, holds=False, note=f"the artifact has no {SAMPLE_FILE}: run it again")
    wrong, compared = [], 0
    for line in parquet.read_table(path).to_pylist():
        number = line["row"]
        compared += 1
        if not 0 <= number < samples:
            wrong.append(f"row {number} is none of the {samples:,} of the stage")
            continue
        row = rows.row(number)
        moved = [name for name, end in rows.position(number + 1).items() if end != rows.position(number).get(name, 0)]
        length = len(row.positions)
        starts = [at for at in range(length) if row.positions[at] == 0] + [length] * bool(row.last_starts_document)
        learned = [at > 0 and at not in starts for at in range(length + 1)]
        labels = [token if at else IGNORE_INDEX for token, at in zip(row.tokens.tolist(), learned, strict=True)]
        for what, published, due in (
            ("source", line["source"], name_of(moved)),
            ("input_ids", line["input_ids"], row.tokens.tolist()),
            ("document_starts", line["document_starts"], starts),
            ("labels", line["labels"], labels),
        ):
            if published != due:
                wrong.append(f"{what} of row {number}")
    return Proof.same(claim, len(wrong), compared, of="rows", note="; ".join(wrong[:3]))


def labels_of_rows(
    rows: list[TokenRow], *, restart_positions: bool, eos: int | None, pad: int | None
) -> Iterator[Proof]:
    """What the batches that torchtitan is given make of the rows, token by token."""
    inputs, labels = collate(rows, restart_positions=restart_positions)
    wrong, compared, ends, lost = [], 0, 0, []
    for number, row in enumerate(rows):
        tokens, positions = row.tokens.tolist(), row.positions.tolist()
        given = labels[number].tolist()
        for place in range(len(positions)):
            is_last = place + 1 == len(positions)
            starts = row.last_starts_document if is_last else positions[place + 1] == 0
            target = tokens[place + 1]
            compared += 1
            if given[place] != (IGNORE_INDEX if starts or (target == pad and pad != eos) else target):
                wrong.append(f"label {place} of row {number} is {given[place]}")
            if target == eos and not starts:
                ends += 1
                if given[place] != eos:
                    lost.append(f"label {place} of row {number}")
    yield Proof.same(
        "labels: no first token of a document, no padding",
        len(wrong),
        compared,
        of=f"labels in {len(rows)} rows",
        note="; ".join(wrong[:3]),
    )
    if ends:
        yield Proof.same(
            "the end of a document is learned", len(lost), ends, of="end tokens", note="masked: " + ", ".join(lost[:5])
        )
    shifted = int((inputs["input"].numpy() != np.stack([row.tokens[:-1] for row in rows])).sum())
    yield Proof.same("inputs are the rows' tokens", shifted, inputs["input"].numel(), of="tokens")


def pieces_of(rows: list[TokenRow]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Pieces of rows in which a document ends and another begins: tokens and positions, each of shape (L,).

    Where documents are longer than all rows, two halves of different rows stand for them.
    """
    pieces = []
    for row in rows:
        starts = np.flatnonzero(row.positions[1:] == 0) + 1
        if not len(starts):
            continue
        middle = int(starts[len(starts) // 2])
        first = max(0, min(middle - PIECE // 2, len(row.positions) - PIECE))
        pieces.append((row.tokens[:-1][first : first + PIECE], row.positions[first : first + PIECE]))
        if len(pieces) == PIECES:
            break
    if not pieces:
        half = min(PIECE, len(rows[0].positions)) // 2
        one, other = rows[0], rows[-1]
        pieces = [(np.concatenate([one.tokens[:half], other.tokens[:half]]), np.tile(np.arange(half), 2))]
    return [
        (torch.from_numpy(tokens.astype(np.int64)), torch.from_numpy(positions.astype(np.int64)))
        for tokens, positions in pieces
    ]


@torch.no_grad()
def documents_apart(
    model: torch.nn.Module, pieces: list[tuple[torch.Tensor, torch.Tensor]], vocab_size: int
) -> Iterator[Proof]:
    """Exchange all tokens of one document in each piece: only its own logits change."""
    others = touched = own = deaf = 0
    where = []
    for number, (tokens, positions) in enumerate(pieces):
        document = (positions == 0).cumsum(0)
        # The last but one: what comes before a document cannot see it in any case, what follows could.
        inside = document == document[-1] - 1
        changed = torch.where(inside, (tokens + 1) % vocab_size, tokens)
        before = model(tokens[None], positions=positions[None])[0]
        after = model(changed[None], positions=positions[None])[0]
        same = (before == after).all(dim=-1)
        others += int((~inside).sum())
        own += int(inside.sum())
        deaf += int((same & inside).sum())
        if reached := (~same & ~inside).nonzero().flatten().tolist():
            touched += len(reached)
            where.append(f"piece {number}: from token {reached[0]} on")
    yield Proof.same(
        "documents do not see each other",
        touched,
        others,
        of=f"tokens' logits in {len(pieces)} pieces",
        note="; ".join(where),
    )
    yield Proof.same("though a document sees itself", deaf, own, of="tokens", note="logits do not depend on the input")
