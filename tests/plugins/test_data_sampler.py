"""The mixture: exact shares, one integer of state, no token lost or repeated, positions that know documents."""

import itertools
import json
import pickle
import random
import struct
import time
from fractions import Fraction

import numpy as np
import pytest

import smolrecipe_data
from smolrecipe import StageContext, StageError, StageRef
from smolrecipe_data import passes
from smolrecipe_data.interleave import Interleave
from smolrecipe_data.mixture import Mixture
from smolrecipe_data.passes import EndlessSource
from smolrecipe_data.random_order import permutation
from smolrecipe_data.shares import held_out_rows, shares_of
from smolrecipe_data.token_files import TokenStream

(MIXTURE,) = smolrecipe_data.smolrecipe_packers()


def write_tokens(folder, lengths, first=0, files=1, size=4):
    """Token files as datatrove writes them, but with the tokens first, first + 1, ...: each tells where it was."""
    folder.mkdir(parents=True)
    token = first
    for number, part in enumerate(np.array_split(np.array(lengths), files)):
        count = int(part.sum())
        path = folder / f"{number:05d}_00000_doc_shuffled.ds"
        path.write_bytes(struct.pack(f"<{count}{'I' if size == 4 else 'H'}", *range(token, token + count)))
        (folder / f"{path.name}.index").write_bytes(struct.pack(f"<{len(part)}Q", *np.cumsum(part).tolist()))
        (folder / f"{path.name}.metadata").write_text(f"some|name|{size}\n{count}\n{count} T")
        token += count
    return folder


def document_lengths(documents, seed=0, longest=40):
    return [random.Random(f"{seed} {number}").randint(1, longest) for number in range(documents)]


def firsts(lengths, first=0):
    """The tokens that start a document."""
    return {first, *(first + int(end) for end in np.cumsum(lengths)[:-1])}


# Which source a sample is from


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


@pytest.mark.parametrize("weights", [WEIGHTS["thirds"], WEIGHTS["rare"]], ids=["thirds", "rare"])
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


def test_random_orders_are_the_same_for_ever():
    assert permutation(8, "key", 1).tolist() == GOLDEN_PERMUTATION
    assert sorted(permutation(1000, 2).tolist()) == list(range(1000))
    assert permutation(1000, 2).tolist() != permutation(1000, 3).tolist()


# One source


@pytest.fixture
def source(tmp_path):
    def make(lengths, files=1, seed=0, size=4):
        folder = tmp_path / f"source-{len(list(tmp_path.iterdir()))}"
        return EndlessSource("source", TokenStream(write_tokens(folder, lengths, files=files, size=size)), seed)

    return make


def read_rows(source, length, rows, start=0):
    return np.concatenate([source.row(start + row * (length + 1), length).tokens for row in range(rows)])


@pytest.mark.parametrize("length", [1, 7, 63, 999])
@pytest.mark.parametrize(("documents", "files"), [(1, 1), (50, 1), (50, 7)])
def test_every_pass_reads_every_token_exactly_once(source, length, documents, files):
    lengths = [2000] if documents == 1 else document_lengths(documents)
    one = source(lengths, files)
    tokens = read_rows(one, length, rows=3 * one.tokens // (length + 1) + 1)
    for number in range(3):
        assert sorted(tokens[number * one.tokens : (number + 1) * one.tokens]) == list(range(one.tokens))
    if documents > 1:
        first, second = tokens[: one.tokens].tolist(), tokens[one.tokens : 2 * one.tokens].tolist()
        assert first != second and first != sorted(first)


def test_documents_stay_whole(source):
    lengths = document_lengths(60)
    one = source(lengths, files=3)
    tokens = read_rows(one, 10, rows=one.tokens // 11 + 1)[: one.tokens].tolist()
    starts = firsts(lengths)
    broken = [b for a, b in itertools.pairwise(tokens) if b != a + 1 and b not in starts]
    assert broken == []


def test_segments_of_many_documents_are_about_equal_and_read_once(source, monkeypatch):
    monkeypatch.setattr(passes, "MOST_SEGMENTS", 16)
    lengths = document_lengths(500)
    for files in (1, 5):
        one = source(lengths, files)
        bounds = passes.segment_bounds(one.stream)
        assert len(bounds) == 17 and set(bounds[:-1].tolist()) <= firsts(lengths)
        assert np.abs(np.diff(bounds) - one.tokens / 16).max() <= 40
        tokens = read_rows(one, 99, rows=2 * one.tokens // 100 + 1)
        assert sorted(tokens[: one.tokens]) == sorted(tokens[one.tokens : 2 * one.tokens]) == list(range(one.tokens))


def naive_positions(tokens, starts):
    """Count up, from 0 at the row's start and at each token that starts a document."""
    positions = []
    for index, token in enumerate(tokens):
        positions.append(0 if index == 0 or token in starts else positions[-1] + 1)
    return positions


def test_document_boundaries_are_found_in_any_range(source):
    lengths = document_lengths(40, longest=9)
    stream, starts = source(lengths, files=6).stream, firsts(lengths)
    ends = [*sorted(starts - {0}), stream.tokens]
    for start in range(0, stream.tokens, 3):
        for stop in range(start + 1, stream.tokens + 1, 7):
            assert stream.document_starts(start, stop) == sorted(t for t in starts if start < t < stop)
    targets = np.arange(stream.tokens)
    assert stream.document_ends_from(targets).tolist() == [min(e for e in ends if e > t) for t in targets]


@pytest.mark.parametrize("segments", [4096, 7, 1])
@pytest.mark.parametrize("length", [1, 5, 64, 1500])
def test_positions_restart_where_documents_do(source, length, segments, monkeypatch):
    monkeypatch.setattr(passes, "MOST_SEGMENTS", segments)
    lengths = document_lengths(80)
    one, starts = source(lengths, files=4), firsts(lengths)
    for row in range(min(300, 3 * one.tokens // length)):
        sample = one.row(row * (length + 1), length)
        assert sample.tokens.shape == (length + 1,) and sample.positions.shape == (length,)
        assert sample.tokens.dtype == sample.positions.dtype == np.int64
        assert sample.positions.tolist() == naive_positions(sample.tokens[:-1].tolist(), starts)
        assert sample.last_starts_document == (int(sample.tokens[-1]) in starts)


def test_tokens_of_two_bytes_are_read_as_such(source):
    lengths = document_lengths(30)
    assert read_rows(source(lengths, size=2), 20, 10).tolist() == read_rows(source(lengths, size=4), 20, 10).tolist()


def test_damaged_files_are_refused(tmp_path):
    for number, damage in enumerate(
        (
            lambda path: path.write_bytes(path.read_bytes()[:-3]),
            lambda path: path.write_bytes(b""),
            lambda path: path.with_name(path.name + ".index").write_bytes(b""),
            lambda path: path.with_name(path.name + ".index").unlink(),
            lambda path: path.with_name(path.name + ".metadata").write_text("tokenizer|3\n12"),
            lambda path: path.with_name(path.name + ".metadata").unlink(),
        )
    ):
        folder = write_tokens(tmp_path / str(number), [5, 5])
        damage(next(folder.glob("*.ds")))
        with pytest.raises(StageError, match=r"00000_00000_doc_shuffled\.ds"):
            TokenStream(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(StageError, match="no token files"):
        TokenStream(tmp_path / "empty")


# Mixtures

LENGTHS = {"web": document_lengths(200, seed=1), "code": document_lengths(60, seed=2), "sums": document_lengths(30, 3)}
FIRST = {"web": 0, "code": 100_000, "sums": 200_000}
HELD_OUT = {"web": [50] * 8, "code": [30] * 4, "sums": [10] * 3}
HELD_OUT_FIRST = {name: first + 50_000 for name, first in FIRST.items()}
WEIGHT = {"web": 0.5, "code": 0.3, "sums": 0.2}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokens")
    for name in LENGTHS:
        write_tokens(root / name / "train", LENGTHS[name], FIRST[name], files=2)
        write_tokens(root / name / "held_out", HELD_OUT[name], HELD_OUT_FIRST[name])
        (root / name / "source.json").write_text("{}")
    (root / "tokens.json").write_text(json.dumps({"sha256": "x", "vocab_size": 300_000}))
    return {name: root / name for name in LENGTHS}


def mixture(sources, length=32, seed=6, weights=None, **options):
    return Mixture(sources, weights or WEIGHT, sequence_length=length, seed=seed, **options)


def tokens_of(rows):
    return [row.tokens.tolist() for row in rows]


def source_of(row):
    return next(name for name in reversed(FIRST) if row.tokens[0] >= FIRST[name])


def test_samples_come_in_the_mixtures_proportions(sources):
    mixed = mixture(sources)
    found = [source_of(mixed.row(sample)) for sample in range(10 * 128)]
    for name, weight in WEIGHT.items():
        assert abs(found.count(name) - weight * 1280) < 1


def test_seeking_is_the_same_as_skipping(sources):
    walked = mixture(sources)
    rows = tokens_of(map(walked.row, range(500)))
    for sample in random.Random(0).sample(range(500), 60):
        fresh = mixture(sources)
        assert fresh.row(sample).tokens.tolist() == rows[sample]
        assert fresh.row(sample).positions.tolist() == walked.row(sample).positions.tolist()
    assert tokens_of(map(pickle.loads(pickle.dumps(walked)).row, range(50))) == rows[:50]


def test_a_far_sample_costs_no_more_than_the_first(sources):
    far = mixture(sources)
    start = time.perf_counter()
    rows = tokens_of(map(far.row, range(10**12, 10**12 + 20)))
    # Milliseconds; anything that walks there would take days.
    assert time.perf_counter() - start < 2
    assert tokens_of(map(mixture(sources).row, range(10**12, 10**12 + 20))) == rows


@pytest.mark.parametrize("degree", [2, 3, 8])
def test_any_data_parallel_degree_reads_the_same_stream(sources, degree):
    alone = tokens_of(map(mixture(sources).row, range(240)))
    ranks = [mixture(sources) for _ in range(degree)]
    merged = [ranks[sample % degree].row(sample).tokens.tolist() for sample in range(240)]
    assert merged == alone


def by_source(rows):
    read = {name: [] for name in FIRST}
    for row in rows:
        read[source_of(row)].extend(row.tokens.tolist())
    return read


def test_a_later_stage_continues_where_the_earlier_one_stopped_at_any_length(sources):
    """Three stages with other lengths, weights and seeds read each source's one stream, without gap or repetition."""
    stages = [(32, 6, WEIGHT, 70), (8, 7, {"web": 0.1, "sums": 0.9}, 150), (200, 8, {"sums": 1, "code": 1}, 20)]
    read, position = {name: [] for name in FIRST}, None
    for length, seed, weights, samples in stages:
        stage = mixture(sources, length, seed, weights, start=position)
        for name, tokens in by_source(map(stage.row, range(samples))).items():
            read[name].extend(tokens)
        position = stage.position(samples)
        assert position == {name: len(tokens) for name, tokens in read.items()}
    for name, tokens in read.items():
        stream = EndlessSource(name, TokenStream(sources[name] / "train"), seed=0)
        assert tokens == stream.row(0, len(tokens) - 1).tokens.tolist()
        full, rest = divmod(len(tokens), stream.tokens)
        for number in range(full):
            part = tokens[number * stream.tokens : (number + 1) * stream.tokens]
            assert sorted(part) == list(range(FIRST[name], FIRST[name] + stream.tokens))
        assert len(set(tokens[full * stream.tokens :])) == rest
    assert len(read["sums"]) > 2 * sum(LENGTHS["sums"]), "the test should go through several passes"


def test_position_keeps_sources_that_a_stage_does_not_use(sources):
    stage = mixture(sources, weights={"web": 1}, start={"code": 99, "gone": 5})
    assert stage.position(10) == {"code": 99, "gone": 5, "web": 330}


def test_held_out_rows_are_in_proportion_and_never_trained_on(sources):
    mixed = mixture(sources, length=19)
    rows = mixed.held_out(20)
    counts = {name: [source_of(row) for row in rows].count(name) for name in FIRST}
    # Tokens for 20, 6 and 1 rows of 20 are held out: sums has but one to give, and web and code fill up.
    assert counts == {"web": 13, "code": 6, "sums": 1}
    tokens = list(itertools.chain.from_iterable(tokens_of(rows)))
    assert len(set(tokens)) == len(tokens)
    for name in FIRST:
        last = HELD_OUT_FIRST[name] + sum(HELD_OUT[name])
        assert all(HELD_OUT_FIRST[name] <= t < last for row in rows if source_of(row) == name for t in row.tokens)
    starts = set().union(*(firsts(HELD_OUT[name], HELD_OUT_FIRST[name]) for name in FIRST))
    assert all(r.positions.tolist() == naive_positions(r.tokens[:-1].tolist(), starts) for r in rows)
    assert tokens_of(mixture(sources, length=19, seed=99).held_out(20)) == tokens_of(rows)
    trained = set(itertools.chain.from_iterable(tokens_of(map(mixed.row, range(1000)))))
    assert not trained & set(tokens)
    assert len(mixed.held_out(1000)) == 27 and mixed.held_out(0) == []
    assert [source_of(row) for row in mixed.held_out(1)] == ["web"]


def test_held_out_rows_go_by_shares():
    shares = shares_of({"a": 0.7, "b": 0.2, "c": 0.1})
    plenty = dict.fromkeys(shares, 1000)
    assert held_out_rows(shares, plenty, 100) == {"a": 70, "b": 20, "c": 10}
    assert held_out_rows(shares, plenty, 4) == {"a": 2, "b": 1, "c": 1}
    assert held_out_rows(shares, plenty, 2) == {"a": 1, "b": 1, "c": 0}
    assert held_out_rows(shares, {"a": 3, "b": 0, "c": 9}, 100) == {"a": 3, "b": 0, "c": 9}


def test_a_summary_accounts_for_every_token(sources):
    summary = mixture(sources, length=19, vocab_size=7).summary()
    assert summary["sequence_length"] == 19 and summary["vocab_size"] == 7
    assert summary["sources"]["sums"] == {
        "share": 0.2,
        "tokens": sum(LENGTHS["sums"]),
        "documents": 30,
        "rows_per_pass": sum(LENGTHS["sums"]) // 20,
        "start": 0,
        "held_out_tokens": 30,
        "held_out_rows": 1,
        "held_out_unused": 10,
    }


def open_packer(sources, stages=("tokens",), root=None, **changes):
    said = []
    folder = next(iter(sources.values())).parent
    inputs = {}
    for stage in stages:
        inputs[stage] = root / stage
        (root / stage).mkdir()
        (root / stage / "tokens").symlink_to(folder)
    context = StageContext(recipe="r", stage="train", folder=root, inputs=inputs, report=said.append)
    options = MIXTURE.options(**{"from_": [StageRef(stage) for stage in stages], "weights": WEIGHT, **changes})
    return MIXTURE.open(options, context, 32, 6, None), said


def test_the_packer_opens_what_stages_published(sources, tmp_path):
    opened, said = open_packer(sources, root=tmp_path)
    assert tokens_of(map(opened.row, range(50))) == tokens_of(map(mixture(sources).row, range(50)))
    assert opened.summary()["vocab_size"] == 300_000
    assert said == [{"message": "source 'sums' has no held-out row: 30 held-out tokens, a row needs 33"}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": {**WEIGHT, "wbe": 1}}, "'weights' names wbe, but the stages mixed have code, sums, web"),
        ({"weights": {"web": 1}}, "no weight for code, sums: give one, or set 'allow_unused: true'"),
        ({"stages": ("a", "b")}, "source 'code' is in two of the stages mixed: rename it in 'b'"),
    ],
)
def test_weights_that_do_not_fit_the_sources_are_refused(sources, tmp_path, changes, message):
    with pytest.raises(StageError, match=message):
        open_packer(sources, root=tmp_path, **changes)


def test_unused_sources_may_be_allowed(sources, tmp_path):
    opened, _ = open_packer(sources, root=tmp_path, weights={"web": 1}, allow_unused=True)
    assert list(opened.summary()["sources"]) == ["web"]


def test_stages_with_different_tokenizers_are_not_mixed(sources, tmp_path):
    for stage, name in (("a", "web"), ("b", "code")):
        write_tokens(tmp_path / stage / "tokens" / name / "train", LENGTHS[name])
        (tmp_path / stage / "tokens" / name / "source.json").write_text("{}")
        (tmp_path / stage / "tokens" / "tokens.json").write_text(json.dumps({"sha256": stage, "vocab_size": 9}))
    context = StageContext(recipe="r", stage="t", folder=tmp_path, inputs={s: tmp_path / s for s in "ab"})
    options = MIXTURE.options(from_=[StageRef("a"), StageRef("b")], weights={"web": 1, "code": 1})
    with pytest.raises(StageError, match="stages a, b used different tokenizers"):
        MIXTURE.open(options, context, 32, 6, None)


def test_a_source_shorter_than_a_row_is_refused(sources):
    with pytest.raises(StageError, match=r"source 'sums' has \d+ tokens, fewer than one row of 10,001"):
        mixture(sources, length=10_000, weights={"sums": 1})


GOLDEN_PERMUTATION = [6, 1, 5, 0, 3, 7, 4, 2]
