"""The ``mixture`` packer: samples from several sources, each with its share, addressed by their global number."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from smolrecipe import StageContext, StageError
from smolrecipe.data import TokenRow
from smolrecipe.stage import TOKENS_FOLDER
from smolrecipe_data.interleave import Interleave
from smolrecipe_data.options import MixtureOptions
from smolrecipe_data.passes import EndlessSource
from smolrecipe_data.shares import held_out_rows, shares_of
from smolrecipe_data.token_facts import Vocabulary, read_vocabulary, require_counts, require_position
from smolrecipe_data.token_files import ABOUT_FILE, SOURCE_FILE, TokenStream
from smolrecipe_data.wording import named


@frozen
class Place:
    """The source of a sample, and how many of the source's tokens come before it, over all passes and stages."""

    source: str
    position: int


class Mixture:
    """``TokenRows`` over the sources of one or more ``tokenize`` stages.

    Sample n comes from the source that ``Interleave`` names, and is that source's next row: the k-th sample of a source
    is its tokens from ``start`` + k * (sequence_length + 1) on, in the order of ``EndlessSource``. So the state of a
    run is the number of samples it has consumed; any sample costs the same to find; and with ``position`` as the next
    stage's ``start`` every source continues where it stopped, also at another sequence length.

    A position is a number of tokens over all passes and stages. It keeps sources that this mixture does not use, for a
    later stage that uses them again.
    """

    def __init__(
        self,
        sources: Mapping[str, Path],
        weights: Mapping[str, float],
        *,
        sequence_length: int,
        seed: int,
        order_seed: int = 0,
        start: Mapping[str, int] | None = None,
        vocab_size: int | None = None,
    ) -> None:
        """``sources``: the folder of each source's token files, with ``train`` and perhaps ``held_out`` in it.

        Raises:
            StageError: for a source with fewer tokens than one row, or a negative start.
        """
        self._length = sequence_length
        self._start = dict(start or {})
        self._vocab_size = vocab_size
        self._shares = shares_of(weights)
        self._names = list(self._shares)
        self._interleave = Interleave(list(self._shares.values()), seed)
        self._sources = [
            EndlessSource(name, TokenStream(sources[name] / "train", vocab_size), order_seed) for name in self._names
        ]
        self._held_out = {
            name: TokenStream(sources[name] / "held_out", vocab_size)
            for name in self._names
            if (sources[name] / "held_out").is_dir()
        }
        for name, source in zip(self._names, self._sources, strict=True):
            if source.tokens < sequence_length + 1:
                raise StageError(
                    f"source '{name}' has {source.tokens:,} tokens, fewer than one row of {sequence_length + 1:,}: "
                    "give it more text, leave it out of 'weights' or shorten 'sequence_length'"
                )
            if self._start.get(name, 0) < 0:
                raise StageError(f"source '{name}' cannot start at token {self._start[name]}")

    def row(self, sample: int) -> TokenRow:
        """The sample of that global number, from 0: tokens (sequence_length + 1,), positions (sequence_length,)."""
        source, position = self._locate(sample)
        return self._sources[source].row(position, self._length)

    def place(self, sample: int) -> Place:
        """Where the tokens of that sample lie."""
        source, position = self._locate(sample)
        return Place(self._names[source], position)

    def pieces(self, place: Place) -> list[tuple[int, int]]:
        """Which tokens of the source's training files the sample at ``place`` is: see ``EndlessSource.pieces``."""
        return self._sources[self._names.index(place.source)].pieces(place.position, self._length + 1)

    def held_out(self, rows: int) -> list[TokenRow]:
        """Up to ``rows`` rows of held-out documents, source by source, the same ones in every stage of equal length.

        Rows go to sources by their shares, and at least one to each source that has one, as far as ``rows`` goes. No
        token is used twice: a source whose held-out documents fill fewer rows gives fewer, others then more, and the
        list is shorter when all are used up; ``summary`` tells what each has.
        """
        found: list[TokenRow] = []
        for name, count in held_out_rows(self._shares, self._held_out_rows(), rows).items():
            reader = EndlessSource(name, self._held_out[name], 0)
            found.extend(reader.row(number * (self._length + 1), self._length) for number in range(count))
        return found

    def position(self, samples: int) -> dict[str, int]:
        """How many tokens of each source have been read after ``samples`` samples, over all passes and stages."""
        position = dict(self._start)
        for name, count in zip(self._names, self._interleave.counts(samples), strict=True):
            position[name] = position.get(name, 0) + count * (self._length + 1)
        return position

    def summary(self) -> dict[str, Any]:
        """Per source its share, tokens, documents, whole rows per pass, start, and what is held out of it.

        Training rows run on across the ends of passes, so that no token of a source is left over; ``held_out_unused``
        is what remains of a source's held-out tokens after its last whole row.
        """
        rows = self._held_out_rows()
        sources = {}
        for name, source in zip(self._names, self._sources, strict=True):
            held_out = self._held_out[name].tokens if name in self._held_out else 0
            sources[name] = {
                "share": float(self._shares[name]),
                "tokens": source.tokens,
                "documents": source.stream.documents,
                "rows_per_pass": source.tokens // (self._length + 1),
                "start": self._start.get(name, 0),
                "held_out_tokens": held_out,
                "held_out_rows": rows[name],
                "held_out_unused": held_out - rows[name] * (self._length + 1),
            }
        return {
            "sequence_length": self._length,
            "block": self._interleave.block,
            "vocab_size": self._vocab_size,
            "sources": sources,
        }

    def _locate(self, sample: int) -> tuple[int, int]:
        """The number of a sample's source, and the position of the sample in it."""
        if sample < 0:
            raise IndexError(f"sample numbers start at 0, not {sample}")
        source, rank = self._interleave.locate(sample)
        return source, self._start.get(self._names[source], 0) + rank * (self._length + 1)

    def _held_out_rows(self) -> dict[str, int]:
        """How many rows the held-out documents of each source fill."""
        return {
            name: self._held_out[name].tokens // (self._length + 1) if name in self._held_out else 0
            for name in self._names
        }


def open_mixture(
    options: MixtureOptions,
    context: StageContext,
    sequence_length: int,
    seed: int,
    start: Mapping[str, int] | None,
) -> Mixture:
    """Open the token files of the stages that ``from`` names.

    Raises:
        StageError: for weights that do not fit the sources there are, for stages with different tokenizers, and for
            files or a position that cannot be what was written.
    """
    sources: dict[str, Path] = {}
    tokenizers: dict[str, Vocabulary] = {}
    for ref in options.from_:
        folder = context.input(ref, TOKENS_FOLDER)
        tokenizers[str(ref)] = read_vocabulary(folder / ABOUT_FILE)
        for source in sorted(path.parent for path in folder.glob(f"*/{SOURCE_FILE}")):
            if source.name in sources:
                raise StageError(f"source '{source.name}' is in two of the stages mixed: rename it in '{ref}'")
            sources[source.name] = source
    if len({about.sha256 for about in tokenizers.values()}) > 1:
        raise StageError(f"stages {', '.join(tokenizers)} used different tokenizers: their tokens cannot be mixed")
    _require_weights(options, sources)
    require_position(start)
    if unknown := sorted(set(start or {}) - set(sources)):
        context.say(f"the position of {named(unknown)}, which no stage mixed here has, is kept for a later stage")
    mixture = Mixture(
        sources,
        options.weights,
        sequence_length=sequence_length,
        seed=seed,
        order_seed=options.order_seed,
        start=start,
        vocab_size=next(iter(tokenizers.values())).size,
    )
    for name, counts in mixture.summary()["sources"].items():
        require_counts(sources[name] / SOURCE_FILE, counts)
        if not counts["held_out_rows"]:
            context.say(
                f"source '{name}' has no held-out row: {counts['held_out_tokens']} held-out tokens, a row needs "
                f"{sequence_length + 1}"
            )
    return mixture


def _require_weights(options: MixtureOptions, sources: Mapping[str, Path]) -> None:
    unknown = [name for name in options.weights if name not in sources]
    if unknown:
        raise StageError(
            f"'weights' names {', '.join(unknown)}, but the stages mixed have {', '.join(sources) or 'no sources'}"
        )
    unused = [name for name in sources if name not in options.weights]
    if unused and not options.allow_unused:
        raise StageError(f"no weight for {', '.join(unused)}: give one, or set 'allow_unused: true' to leave them out")
