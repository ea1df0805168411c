"""One source, read again and again: no token lost or repeated in a pass, positions that know documents."""

import itertools
from collections import Counter

import numpy as np
import pytest
from data_tokens import document_lengths, firsts, naive_positions, write_tokens

from smolrecipe import StageError
from smolrecipe_data import passes, token_files
from smolrecipe_data.passes import EndlessSource
from smolrecipe_data.token_files import TokenStream


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


def test_lengths_are_counted_over_files_and_pieces_of_them(tmp_path, monkeypatch):
    lengths = document_lengths(70)
    monkeypatch.setattr(token_files, "_CHECKED_AT_ONCE", 4)
    found = TokenStream(write_tokens(tmp_path / "source", lengths, files=3)).lengths()
    assert found == Counter(lengths)


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
