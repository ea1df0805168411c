"""The mixture: one integer of state, the same stream however it is read, held-out rows, what the packer refuses."""

import itertools
import json
import pickle
import random
import time

import pytest
from data_tokens import document_lengths, firsts, naive_positions, write_tokens

import smolrecipe_data
from smolrecipe import StageContext, StageError, StageRef
from smolrecipe_data.mixture import Mixture
from smolrecipe_data.passes import EndlessSource
from smolrecipe_data.token_files import TokenStream

(MIXTURE,) = smolrecipe_data.smolrecipe_packers()
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


def test_a_summary_accounts_for_every_token(sources):
    summary = mixture(sources, length=19, vocab_size=300_000).summary()
    assert summary["sequence_length"] == 19 and summary["vocab_size"] == 300_000
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
