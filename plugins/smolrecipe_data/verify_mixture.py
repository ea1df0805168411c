"""What ``verify`` finds out about a mixture: the samples that a stage trained on, against the token files themselves.

The mixture says where a sample lies. That its tokens are those that lie there, that they are of the right source and
that documents start where their files say is read off the files; that shares are right and nothing is read twice is
counted.
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from attrs import frozen

from smolrecipe import Proof, StageContext, StageError
from smolrecipe.data import TokenRow
from smolrecipe.stage import TOKENS_FOLDER
from smolrecipe_data.mixture import Mixture, open_mixture
from smolrecipe_data.options import MixtureOptions
from smolrecipe_data.raw_files import Array, RawFile, raw_files
from smolrecipe_data.token_files import ABOUT_FILE
from smolrecipe_data.wording import listed

_MOST_TOKENS_READ = 2**23
_MOST_PLACES = 20_000
_MOST_COUNTED = 1_000_000
_DEVIATIONS = 5


def verify_mixture(
    options: MixtureOptions,
    context: StageContext,
    sequence_length: int,
    seed: int,
    start: Mapping[str, int] | None,
    samples: int,
) -> Iterator[Proof]:
    """Proofs about the samples 0 to ``samples`` - 1 of the mixture that a stage trained on.

    All samples where there are few; otherwise, for content, some from everywhere, and for shares, the first and the
    last half million.
    """
    try:
        mixture = open_mixture(options, context, sequence_length, seed, start)
    except StageError as error:
        yield Proof(claim="the mixture's sources are whole", holds=False, note=str(error))
        return
    files = _files(options, context)
    yield from _rows_are_read_off_the_files(mixture, files, sequence_length, samples)
    yield _shares(mixture, options.weights, samples)
    yield _order(mixture, start or {}, sequence_length, samples)
    yield _nothing_is_read_twice(mixture, files, samples)


def _files(options: MixtureOptions, context: StageContext) -> dict[str, list[RawFile]]:
    found: dict[str, list[RawFile]] = {}
    for ref in options.from_:
        folder: Path = context.input(ref, TOKENS_FOLDER)
        vocab_size = json.loads((folder / ABOUT_FILE).read_text())["vocab_size"]
        for name in options.weights:
            if (folder / name).is_dir():
                found[name] = raw_files(folder / name / "train", vocab_size)
    return found


def _rows_are_read_off_the_files(
    mixture: Mixture, files: Mapping[str, Sequence[RawFile]], length: int, samples: int
) -> Iterator[Proof]:
    other_tokens, other_positions = [], []
    numbers = _some(samples, max(8, _MOST_TOKENS_READ // (length + 1)))
    for sample in numbers:
        row, place = mixture.row(sample), mixture.place(sample)
        expected = _row_from(files[place.source], mixture.pieces(place), length)
        if not np.array_equal(row.tokens, expected.tokens):
            first = _first_difference(row.tokens, expected.tokens)
            other_tokens.append(f"sample {sample} ('{place.source}') from token {first} on")
        same_last = row.last_starts_document == expected.last_starts_document
        if not (same_last and np.array_equal(row.positions, expected.positions)):
            first = _first_difference(row.positions, expected.positions)
            other_positions.append(f"sample {sample} ('{place.source}') at token {first}")
    of = _samples(len(numbers), samples)
    yield Proof.same(
        "rows are what lies in the token files", len(other_tokens), len(numbers), of=of, note=listed(other_tokens)
    )
    yield Proof.same(
        "positions restart where documents do", len(other_positions), len(numbers), of=of, note=listed(other_positions)
    )


def _row_from(files: Sequence[RawFile], pieces: Iterable[tuple[int, int]], length: int) -> TokenRow:
    """The row that the pieces make, token by token from the files and positions counted up from their indexes."""
    tokens: list[Array] = []
    starts: list[Array] = []
    filled = 0
    for place, count in pieces:
        base = 0
        for file in files:
            first, stop = max(place - base, 0), min(place + count - base, file.length)
            if first < stop:
                ends = file.all_ends()
                inside = np.asarray(ends[np.searchsorted(ends, first) : np.searchsorted(ends, stop)], np.int64)
                begins = np.concatenate(([0], inside)) if first == 0 else inside
                starts.append(begins - first + filled)
                tokens.append(file.tokens(first, stop))
                filled += stop - first
            base += file.length
    is_start = np.zeros(length + 1, bool)
    is_start[np.concatenate(starts)] = True
    last_starts_document = bool(is_start[length])
    position, positions = 0, np.empty(length, np.int64)
    for index, starting in enumerate(is_start[:length].tolist()):
        position = 0 if starting or index == 0 else position + 1
        positions[index] = position
    return TokenRow(np.concatenate(tokens), positions, last_starts_document=last_starts_document)


@frozen
class _Share:
    """How far a source's samples in some stretch of the run are from its share, and how far they may be."""

    source: str
    off: float
    bound: float


def _shares(mixture: Mixture, weights: Mapping[str, float], samples: int) -> Proof:
    """Counted over whole blocks a source is less than a sample from its share, at each end of the stretch.

    Of a block that the run ends in, the samples are a random part: with the deviation of a draw without replacement.
    """
    block, total = int(mixture.summary()["block"]), sum(weights.values())
    found: list[_Share] = []
    counted = 0
    for first, stop in _stretches(samples, block):
        counted += stop - first
        counts = Counter(mixture.place(sample).source for sample in range(first, stop))
        rest = (stop - first) % block
        for name, weight in weights.items():
            share = weight / total
            spread = math.sqrt(rest * share * (1 - share) * (block - rest) / (block - 1))
            bound = (1 if first == 0 else 2) + _DEVIATIONS * spread
            found.append(_Share(name, abs(counts[name] - share * (stop - first)), bound))
    worst = max(found, key=lambda share: share.off / share.bound)
    return Proof(
        claim="each source has its weight's share",
        holds=counted > 0 and worst.off <= worst.bound,
        measured=f"'{worst.source}' {worst.off:.2f} off in {counted:,} of {samples:,} samples",
        bound=f"{worst.bound:.2f} samples",
        note="" if worst.off <= worst.bound else listed([f"'{s.source}'" for s in found if s.off > s.bound]),
    )


def _stretches(samples: int, block: int) -> list[tuple[int, int]]:
    """The samples to count: all, or the first and the last, from where a block starts."""
    if samples <= _MOST_COUNTED:
        return [(0, samples)]
    half = max(block, _MOST_COUNTED // 2 // block * block)
    return [(0, half), (max(half, (samples - half) // block * block), samples)]


def _order(mixture: Mixture, start: Mapping[str, int], length: int, samples: int) -> Proof:
    """A source is read from where the stage before stopped, row behind row, and nothing is skipped."""
    wrong, compared = [], 0
    expected: dict[str, int] = {}
    counted = range(min(samples, _MOST_PLACES))
    for sample in counted:
        place = mixture.place(sample)
        due = expected.get(place.source, start.get(place.source, 0))
        compared += 1
        if place.position != due:
            wrong.append(f"sample {sample} is '{place.source}' from token {place.position:,} on, not from {due:,}")
        expected[place.source] = place.position + length + 1
    if len(counted) == samples:
        ended = mixture.position(samples)
        for name, position in {**start, **expected}.items():
            if ended.get(name) != position:
                wrong.append(f"'{name}' ends at {ended.get(name)}, not at {position}")
    of = _samples(len(counted), samples)
    return Proof.same("sources are read on without a gap", len(wrong), compared, of=of, note=listed(wrong))


def _nothing_is_read_twice(mixture: Mixture, files: Mapping[str, Sequence[RawFile]], samples: int) -> Proof:
    """In one pass over a source no token is in two samples."""
    numbers = _some(samples, _MOST_PLACES)
    tokens = {name: sum(file.length for file in parts) for name, parts in files.items()}
    read: dict[tuple[str, int], list[tuple[int, int, int]]] = {}
    for sample in numbers:
        place = mixture.place(sample)
        position = place.position
        for first, count in mixture.pieces(place):
            read.setdefault((place.source, position // tokens[place.source]), []).append((first, first + count, sample))
            position += count
    twice = [
        f"samples {one[2]} and {two[2]} both have token {two[0]:,} of '{source}' in pass {number + 1}"
        for (source, number), parts in read.items()
        for one, two in pairwise(sorted(parts))
        if two[0] < one[1]
    ]
    of = _samples(len(numbers), samples)
    return Proof.same("no token is read twice in a pass", len(twice), len(numbers), of=of, note=listed(twice))


def _some(samples: int, most: int) -> list[int]:
    """All sample numbers, or ``most`` of them: from the start, from the end, and at random from everywhere."""
    if samples <= most:
        return list(range(samples))
    edge = most // 4
    between = random.Random(0).sample(range(edge, samples - edge), most - 2 * edge)
    return [*range(edge), *sorted(between), *range(samples - edge, samples)]


def _samples(compared: int, samples: int) -> str:
    return "samples" if compared == samples else f"samples (the stage has {samples:,})"


def _first_difference(one: Array, two: Array) -> int:
    shared = min(len(one), len(two))
    different = np.flatnonzero(one[:shared] != two[:shared])
    return int(different[0]) if len(different) else shared
