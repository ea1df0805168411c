"""Token files: equal to a direct tokenisation, split by content, and finished by a second run after a kill."""

import hashlib
import json
import signal
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from attrs import frozen
from tokenizers import Tokenizer, models, pre_tokenizers

import smolrecipe_data
from smolrecipe import Source, StageContext, StageError, StageRef, Use, option
from smolrecipe_data.documents import split_of

STAGES = {stage.name: stage for stage in smolrecipe_data.smolrecipe_stages()}
TOKENIZE = STAGES["tokenize"]
END = "<|end_of_text|>"


@frozen(kw_only=True)
class NumbersOptions:
    """Options of a source of this file: ``count`` documents, optionally killing the process while it is read."""

    count: int = option(doc="documents")
    prefix: str = option(default="document", doc="their first word")
    kill_at: int | None = option(default=None, doc="kill the process when this document is asked for")


def read_numbers(options):
    for number in range(options.count):
        if number == options.kill_at:
            signal.raise_signal(signal.SIGKILL)
        yield {"text": f"{options.prefix} {number} " + "la " * (number % 7) + "é\n"}


NUMBERS = Source(name="numbers", summary="", options=NumbersOptions, read=read_numbers, yields=lambda options: "text")


def numbers(**options):
    return Use(NUMBERS, NumbersOptions(**options))


def rows(*given):
    source = Source(name="rows", summary="", read=lambda options: given, yields=lambda options: "text")
    return Use(source, None)


def save_tokenizer(folder: Path, vocabulary: int = 0) -> None:
    """A tokenizer folder with a byte alphabet, an end token and as many unused tokens as fill ``vocabulary``."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*alphabet, *(f"unused {number}" for number in range(vocabulary - 1 - len(alphabet)))]
    tokenizer = Tokenizer(models.BPE({name: index for index, name in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens([END])
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": END}))


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """Tokenizer artifacts by the bytes that a token of theirs needs."""
    roots = {2: tmp_path_factory.mktemp("small"), 4: tmp_path_factory.mktemp("large")}
    save_tokenizer(roots[2] / "tokenizer")
    save_tokenizer(roots[4] / "tokenizer", vocabulary=2**16 + 1)
    return roots


def run(folder, tokenizer, **changes):
    events = []
    context = StageContext(recipe="r", stage="t", folder=folder, inputs={"tokenizer": tokenizer}, report=events.append)
    settings = {"held_out": 0.2, **changes}
    artifact = TOKENIZE.run(TOKENIZE.options(tokenizer=StageRef("tokenizer"), **settings), context)
    return artifact, events


def token_files(folder):
    return sorted((folder / "tokens").rglob("*.ds"))


def documents(folder, size):
    """The documents, as tuples of tokens, of all token files below a folder; read with nothing but struct."""
    found = []
    for path in sorted(folder.rglob("*.ds")):
        content, index = path.read_bytes(), path.with_name(path.name + ".index").read_bytes()
        tokens = struct.unpack(f"<{len(content) // size}{'H' if size == 2 else 'I'}", content)
        ends = struct.unpack(f"<{len(index) // 8}Q", index)
        assert ends[-1] == len(tokens)
        found += [tokens[start:end] for start, end in zip((0, *ends), ends, strict=False)]
    return found


def content(folder):
    """Every file of the artifact with its hash."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def bin_of(document) -> str:
    """The name of its length's bin, by looking for it among the edges that there are."""
    edges = [*range(1, 8), *(quarter * 2**power for power in range(1, 9) for quarter in range(4, 8))]
    return str(max(edge for edge in edges if edge <= len(document)))


@pytest.mark.parametrize("size", [2, 4])
def test_token_files_hold_a_direct_tokenisation_of_every_document(tmp_path, tokenizers, size):
    artifact, _ = run(tmp_path, tokenizers[size], sources={"numbers": numbers(count=200)})
    tokenizer = Tokenizer.from_file(str(tokenizers[size] / "tokenizer" / "tokenizer.json"))
    expected = {"train": [], "held_out": []}
    for row in read_numbers(NumbersOptions(count=200)):
        tokens = (*tokenizer.encode(row["text"]).ids, tokenizer.token_to_id(END))
        expected[split_of(row["text"], 0.2)].append(tokens)
    for split in ("train", "held_out"):
        found = documents(tmp_path / "tokens" / "numbers" / split, size)
        assert Counter(found) == Counter(expected[split])
        assert found != expected[split], "the documents should be shuffled"
    assert artifact.summary["sources"]["numbers"] == {
        "tokens": sum(map(len, expected["train"])),
        "held_out_tokens": sum(map(len, expected["held_out"])),
        "documents": len(expected["train"]),
        "held_out_documents": len(expected["held_out"]),
        "characters": sum(len(row["text"]) for row in read_numbers(NumbersOptions(count=200))),
        "empty_documents": 0,
        "repaired_documents": 0,
        "escaped_documents": 0,
        "lengths": dict(sorted(Counter(map(bin_of, expected["train"])).items(), key=lambda pair: int(pair[0]))),
    }
    assert 20 <= len(expected["held_out"]) <= 60
    about = json.loads((tmp_path / "tokens" / "tokens.json").read_text())
    assert about["vocab_size"] == tokenizer.get_vocab_size() and about["end_of_document"] == END
    assert {path.name for path in tmp_path.iterdir()} == {"tokens"}
    assert all(str(tokenizers[size]) not in path.read_text() for path in tmp_path.rglob("*.metadata"))


def test_workers_share_the_files_and_change_nothing(tmp_path, tokenizers):
    settings = {"sources": {"numbers": numbers(count=200)}, "files": 3}
    run(tmp_path / "one", tokenizers[2], workers=1, **settings)
    run(tmp_path / "two", tokenizers[2], workers=2, **settings)
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert len(token_files(tmp_path / "one")) == 4
    run(tmp_path / "single", tokenizers[2], sources=settings["sources"])
    assert Counter(documents(tmp_path / "one", 2)) == Counter(documents(tmp_path / "single", 2))


def test_the_seed_orders_and_the_content_splits(tmp_path, tokenizers):
    sources = {"numbers": numbers(count=100)}
    for name, changes in (("a", {}), ("b", {"seed": 1}), ("c", {"held_out": 0.4}), ("a2", {})):
        run(tmp_path / name, tokenizers[2], sources=sources, **changes)
    held_out = {name: set(documents(tmp_path / name / "tokens/numbers/held_out", 2)) for name in "abc"}
    assert held_out["a"] == held_out["b"] < held_out["c"]
    assert documents(tmp_path / "a", 2) != documents(tmp_path / "b", 2)
    assert content(tmp_path / "a") == content(tmp_path / "a2")


def test_equal_documents_stay_on_one_side(tmp_path, tokenizers):
    twice = [*read_numbers(NumbersOptions(count=100)), *read_numbers(NumbersOptions(count=100))]
    run(tmp_path, tokenizers[2], sources={"twice": rows(*twice)})
    train, held_out = (set(documents(tmp_path / "tokens/twice" / split, 2)) for split in ("train", "held_out"))
    assert not train & held_out and len(train | held_out) == 100


def test_what_is_left_out_or_mended_is_counted(tmp_path, tokenizers):
    given = [{"text": f"text {number}"} for number in range(40)]
    artifact, _ = run(tmp_path, tokenizers[2], sources={"odd": rows({"text": ""}, {"text": "lone \ud800"}, *given)})
    counts = artifact.summary["sources"]["odd"]
    assert counts["empty_documents"] == 1 and counts["repaired_documents"] == 1
    assert counts["documents"] + counts["held_out_documents"] == 41


def test_without_a_held_out_part_everything_is_trained_on(tmp_path, tokenizers):
    artifact, _ = run(tmp_path, tokenizers[2], sources={"numbers": numbers(count=5)}, held_out=0.0)
    assert artifact.summary["documents"] == 5 and artifact.summary["held_out_tokens"] == 0
    assert not (tmp_path / "tokens" / "numbers" / "held_out").exists()


@pytest.mark.parametrize(
    ("source", "changes", "message"),
    [
        (rows(), {}, r"source 'x' is an empty dataset: 0 rows"),
        (rows({"text": ""}), {}, r"source 'x' is an empty dataset: 1 rows"),
        (numbers(count=3), {"held_out": 1e-6}, r"none of its 3 documents falls into the held-out part"),
        (rows({"messages": []}), {}, r"source 'x': a row has no 'text' to tokenise; it has messages"),
        (numbers(count=3), {"end_of_document": "<|nope|>"}, r"'end_of_document' is <\|nope\|>, which is no token"),
    ],
)
def test_what_cannot_be_tokenised_is_refused(tmp_path, tokenizers, source, changes, message):
    with pytest.raises(StageError, match=message):
        run(tmp_path, tokenizers[2], sources={"x": source}, **changes)


def test_a_tokenizer_that_truncates_is_refused(tmp_path, tokenizers):
    save_tokenizer(tmp_path / "cut" / "tokenizer")
    file = tmp_path / "cut" / "tokenizer" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.enable_truncation(4)
    tokenizer.save(str(file))
    with pytest.raises(StageError, match="truncates or pads texts"):
        run(tmp_path, tmp_path / "cut", sources={"x": numbers(count=3)})


# Interruptions. A first process is killed with SIGKILL at a chosen moment; a second run finishes its work.

FILES = 2
SOURCES = {"first": numbers(count=60, prefix="first"), "second": numbers(count=90, prefix="second")}

KILLED_RUN = f"""
import signal, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_data_tokenize as test
from datatrove.pipeline.tokens.tokenizer import TokenizedFile
from smolrecipe_data import token_writer

moment, folder, tokenizer = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
sources = dict(test.SOURCES)

def killing(function, call):
    calls = 0
    def wrapped(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == call:
            signal.raise_signal(signal.SIGKILL)
        return function(*arguments, **options)
    return wrapped

if moment == "reading":
    sources["second"] = test.numbers(count=90, prefix="second", kill_at=50)
elif moment == "writing":  # every document is written once, shuffled documents are copied as bytes
    TokenizedFile.write = killing(TokenizedFile.write, 60 + 50)
elif moment == "shuffling":
    TokenizedFile.write_bytes = killing(TokenizedFile.write_bytes, 2 * 60 + 90)
elif moment == "between files":
    token_writer.describe = killing(token_writer.describe, 3 + 2)
test.run(folder, tokenizer, sources=sources, files=test.FILES)
"""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, tokenizers):
    folder = tmp_path_factory.mktemp("uninterrupted")
    artifact, _ = run(folder, tokenizers[2], sources=SOURCES, files=FILES)
    return folder, artifact


@pytest.mark.parametrize("moment", ["reading", "writing", "shuffling", "between files"])
def test_a_killed_stage_goes_on_where_it_was(tmp_path, tokenizers, uninterrupted, moment):
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_RUN, moment, str(tmp_path), str(tokenizers[2])], capture_output=True, text=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "tokens/second/source.json").exists()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "tokens/first").rglob("*") if path.is_file()}
    assert len(before) == 3 * (FILES + 1) + 1
    if moment != "reading":  # the first file of the second source was finished, and stays
        finished = list((tmp_path / "tokens/second/train").glob("00000_*"))
        assert len(finished) == 3
        before |= {path: path.stat().st_mtime_ns for path in finished}

    artifact, events = run(tmp_path, tokenizers[2], sources=SOURCES, files=FILES)

    assert {"message": "source 'first' was tokenised before the interruption"} in events
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert content(tmp_path) == content(uninterrupted[0])
    assert artifact.summary == uninterrupted[1].summary


def test_documents_become_parquet_without_pandas(tmp_path):
    """Which takes a second to import, and which pyarrow asks when it is given a list."""
    code = (
        "import pathlib, sys; import pyarrow.parquet; from smolrecipe_data.documents import collect\n"
        "rows = [{'text': text} for text in ('é 1', '😀', 'two\\n\\x00', 'é' * 2**20)]\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "collect(rows, folder, where='', held_out=0, files=1, seed=0, control_tokens=[], on_documents=print)\n"
        "loaded = 'pandas' in sys.modules\n"
        "texts = pyarrow.parquet.read_table(folder / 'train' / '00000.parquet').column('text').to_pylist()\n"
        "print(loaded, texts == [row['text'] for row in rows])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "False True"
