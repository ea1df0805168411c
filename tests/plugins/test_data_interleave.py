"""Which source each sample is from: exact shares, in an order that is random and the seed's."""

import itertools
from fractions import Fraction

import pytest

from smolrecipe_data.interleave import Interleave
from smolrecipe_data.random_order import permutation
from smolrecipe_data.shares import held_out_rows, shares_of

WEIGHTS = {
    "two": [1, 1],
    "one": [0.3],
    "thirds": [1, 1, 1],
    "rare": [0.9, 0.0999, 0.0001],
    # Stage 1 of SmolLM3: English web, code, mathematics and many languages, some with less than a thousandth.
    "many": [0.333, 0.37, 0.02, *[0.01 / n for n in range(1, 38)]],
}


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_shares_are_exact_to_within_one_sample_at_every_block(weights):
    shares = list(shares_of(dict(enumerate(weights))).values())
    assert sum(shares) == 1
    interleave = Interleave(shares, seed=6)
    assert interleave.block * min(shares) >= 1
    before = [0] * len(shares)
    for block in (*range(200), *range(10**7, 10**7 + 200)):
        counts = interleave.counts(block * interleave.block)
        assert sum(counts) == block * interleave.block
        for count, share in zip(counts, shares, strict=True):
            assert abs(count - block * interleave.block * share) < 1
        if block not in (0, 10**7):
            assert all(after >= count for after, count in zip(counts, before, strict=True))
        before = counts


@pytest.mark.parametrize("weights", [WEIGHTS["thirds"], WEIGHTS["rare"], WEIGHTS["many"]])
def test_sources_and_ranks_agree_with_counting(weights):
    shares = list(shares_of(dict(enumerate(weights))).values())
    interleave = Interleave(shares, seed=1)
    seen = [0] * len(shares)
    for sample in range(3 * interleave.block // 2):
        if sample % 97 == 0:
            assert interleave.counts(sample) == seen
        source, rank = interleave.locate(sample)
        assert rank == seen[source]
        seen[source] += 1


def test_the_order_inside_a_block_is_random_and_the_seeds():
    halves = [Fraction(1, 2)] * 2
    sequences = {seed: [Interleave(halves, seed).locate(sample)[0] for sample in range(256)] for seed in range(3)}
    assert len({tuple(sequence) for sequence in sequences.values()}) == 3
    for sequence in sequences.values():
        assert sum(sequence[:128]) == sum(sequence[128:]) == 64 and sequence[:128] != sequence[128:]
        # Runs of equal sources: 64.5 expected of a random order of 64 + 64, with a standard deviation of 5.6.
        runs = sum(a != b for a, b in itertools.pairwise(sequence[:128]))
        assert 40 < runs < 90


def test_a_thousand_sources_take_a_thousand_additions_of_fractions():
    class Counted(Fraction):
        additions = 0

        def __add__(self, other):
            Counted.additions += 1
            return Counted(Fraction.__add__(self, other))

        __radd__ = __add__

    shares = list(shares_of({name: 1 + name % 7 for name in range(1000)}).values())
    interleave = Interleave([Counted(share) for share in shares], seed=0)
    assert Counted.additions <= len(shares)
    assert interleave.counts(interleave.block) == Interleave(shares, seed=0).counts(interleave.block)


def test_the_sources_of_samples_are_the_same_for_ever():
    interleave = Interleave(list(shares_of({"a": 0.5, "b": 0.3, "c": 0.2}).values()), seed=6)
    assert [interleave.locate(sample)[0] for sample in range(10**9, 10**9 + 16)] == GOLDEN_SOURCES


def test_random_orders_are_the_same_for_ever():
    assert permutation(8, "key", 1).tolist() == GOLDEN_PERMUTATION
    assert sorted(permutation(1000, 2).tolist()) == list(range(1000))
    assert permutation(1000, 2).tolist() != permutation(1000, 3).tolist()


def test_held_out_rows_go_by_shares():
    shares = shares_of({"a": 0.7, "b": 0.2, "c": 0.1})
    plenty = dict.fromkeys(shares, 1000)
    assert held_out_rows(shares, plenty, 100) == {"a": 70, "b": 20, "c": 10}
    assert held_out_rows(shares, plenty, 4) == {"a": 2, "b": 1, "c": 1}
    assert held_out_rows(shares, plenty, 2) == {"a": 1, "b": 1, "c": 0}
    assert held_out_rows(shares, {"a": 3, "b": 0, "c": 9}, 100) == {"a": 3, "b": 0, "c": 9}


GOLDEN_PERMUTATION = [6, 1, 5, 0, 3, 7, 4, 2]
GOLDEN_SOURCES = [2, 0, 2, 0, 2, 2, 0, 0, 1, 0, 0, 0, 0, 2, 0, 1]
