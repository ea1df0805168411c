"""Counts of token files as datatrove writes them, and what the proofs find when something is wrong."""

import json
import math
import random
import shutil

import attrs
import numpy as np
import pytest
import smolrecipe_count_tokens
from datatrove.data import Document
from datatrove.pipeline.tokens.tokenizer import DocumentTokenizer
from smolrecipe_count_tokens import CountTokensOptions
from smolrecipe_count_tokens.counting import count_split
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from smolrecipe import StageContext, StageError, StageRef
from smolrecipe.testing import conformance

test_contract = conformance("count_tokens")

(COUNT,) = smolrecipe_count_tokens.smolrecipe_stages()
OPTIONS = CountTokensOptions(from_=StageRef("tokens"))
LENGTHS = {
    ("prose", "train"): [1, 2, 3, 4, 7, 8, 100, 1000],
    ("prose", "held_out"): [5],
    ("code", "train"): random.Random(0).choices(range(1, 70), k=300),
}
"""Words of the documents; each gets a token for its end besides."""


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """An artifact with token files, some splits in two files, written by datatrove."""
    folder = tmp_path_factory.mktemp("tokens")
    tokenizer = Tokenizer(WordLevel({"<end>": 0, "word": 1, "<unk>": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    for (source, split), lengths in LENGTHS.items():
        for rank in range(2 if len(lengths) > 1 else 1):
            writer = DocumentTokenizer(
                str(folder / "tokens" / source / split),
                str(folder / "tokenizer.json"),
                eos_token="<end>",
                shuffle_documents=True,
                seed=1,
            )
            part = lengths[rank::2]
            writer.run((Document(text="word " * n, id=str(i)) for i, n in enumerate(part)), rank=rank, world_size=2)
    (folder / "tokens" / "tokens.json").write_text("{}")
    return folder


@pytest.fixture
def context(tokens, tmp_path):
    return StageContext(recipe="r", stage="counts", folder=tmp_path, inputs={"tokens": tokens})


def by_hand(lengths):
    """In plain Python, from the documents that went in."""
    whole = [length + 1 for length in lengths]
    histogram = {}
    for length in sorted(whole):
        below = f"< {2 ** (math.floor(math.log2(length)) + 1)}"
        histogram[below] = histogram.get(below, 0) + 1
    return {"tokens": sum(whole), "documents": len(whole), "longest": max(whole), "histogram": histogram}


def test_counts_are_those_of_the_documents_that_went_in(context, tmp_path):
    said = []
    artifact = COUNT.run(OPTIONS, attrs.evolve(context, report=said.append))
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert {(source, split) for source, splits in counts.items() for split in splits} == set(LENGTHS)
    for (source, split), lengths in LENGTHS.items():
        found = counts[source][split]
        assert found.pop("mean") == pytest.approx(found["tokens"] / found["documents"], abs=0.01)
        assert found == by_hand(lengths)
    words = sum(map(sum, LENGTHS.values()))
    documents = sum(map(len, LENGTHS.values()))
    assert artifact.summary["tokens"] == words + documents
    assert artifact.summary["sources"]["prose"] == {"tokens": 1130 + 9, "documents": 9}
    assert any(event.get("message", "").startswith("prose, held_out: 6 tokens in 1 documents") for event in said)
    assert COUNT.produces(OPTIONS) == {}


def test_lengths_at_the_edges_of_a_bin(tmp_path):
    """4 is no longer below 4, however many documents are read at a time."""
    for name, lengths in (("a", [1, 3, 4, 5]), ("b", [8, 2**40])):
        (tmp_path / f"{name}.ds").touch()
        np.cumsum(lengths).astype("<i8").tofile(tmp_path / f"{name}.ds.index")
    assert count_split(tmp_path)["histogram"] == {"< 2": 1, "< 4": 1, "< 8": 2, "< 16": 1, f"< {2**41}": 1}


def test_what_cannot_be_counted_is_told(tokens, tmp_path):
    (tmp_path / "empty" / "tokens").mkdir(parents=True)
    with pytest.raises(StageError, match="nothing to count"):
        COUNT.run(
            OPTIONS,
            StageContext(recipe="r", stage="c", folder=tmp_path, inputs={"tokens": tmp_path / "empty"}),
        )
    damaged = tmp_path / "damaged"
    shutil.copytree(tokens, damaged)
    index = next((damaged / "tokens" / "code" / "train").glob("*.index"))
    ends = np.fromfile(index, dtype="<i8")
    ends[5] = ends[4]
    ends.tofile(index)
    with pytest.raises(StageError, match="do not rise"):
        COUNT.run(OPTIONS, StageContext(recipe="r", stage="c", folder=tmp_path, inputs={"tokens": damaged}))


def test_proofs_hold_and_find_what_is_wrong(context, tmp_path):
    COUNT.run(OPTIONS, context)
    assert [proof.holds for proof in COUNT.verify(OPTIONS, context)] == [True, True, True]
    whole = json.loads((tmp_path / "counts.json").read_text())

    def found(change):
        counts = json.loads(json.dumps(whole))
        change(counts)
        (tmp_path / "counts.json").write_text(json.dumps(counts))
        return [proof.note for proof in COUNT.verify(OPTIONS, context) if not proof.holds]

    assert found(lambda counts: counts["code"]["train"].update(tokens=1)) == [
        f"code, train: 1 counted, and the files hold {sum(LENGTHS['code', 'train']) + 300:,}"
    ]
    assert "code, train" in found(lambda counts: counts.pop("code"))[0]
    assert found(lambda counts: counts["prose"]["train"]["histogram"].popitem()) == ["prose, train"]
