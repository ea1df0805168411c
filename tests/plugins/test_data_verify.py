"""What ``verify`` says of tokenizers and token files: that good ones hold, and where damaged ones are damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import frozen
from tokenizers import Tokenizer
from tokenizers.normalizers import Lowercase
from tokenizers.processors import TemplateProcessing

import smolrecipe_data
from smolrecipe import Proof, Source, StageContext, StageRef, Use, option
from smolrecipe_data import verify_tokens

STAGES = {stage.name: stage for stage in smolrecipe_data.smolrecipe_stages()}
TRAIN, PRETRAINED, TOKENIZE = (STAGES[name] for name in ("train_tokenizer", "pretrained_tokenizer", "tokenize"))
VOCABULARY = 300
SPECIAL = ["<|end_of_text|>", "<|finetune_right_pad_id|>", "<think>"]
DOCUMENTS = 50


@frozen(kw_only=True)
class NumbersOptions:
    first_word: str = option(doc="begins every document")


def read_numbers(options: NumbersOptions) -> Iterable[dict[str, str]]:
    for number in range(DOCUMENTS):
        yield {"text": f"{options.first_word} {number} " + "la la " * (number % 7) + "é\n"}


NUMBERS = Source(name="numbers", summary="", options=NumbersOptions, read=read_numbers, yields=lambda options: "text")
SOURCES = {name: Use(NUMBERS, NumbersOptions(first_word=name)) for name in ("one", "two")}


def context(folder: Path, **inputs: Path) -> StageContext:
    return StageContext(recipe="r", stage="s", folder=folder, inputs=inputs)


def trained_options(**changes: Any) -> Any:
    return TRAIN.options(**{"data": SOURCES, "vocab_size": VOCABULARY, "special_tokens": SPECIAL, **changes})


TOKENIZE_OPTIONS = TOKENIZE.options(tokenizer=StageRef("tokenizer"), sources=SOURCES, held_out=0.2, files=2)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    TRAIN.run(trained_options(), context(folder))
    return folder


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory, tokenizer: Path) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    artifact = TOKENIZE.run(TOKENIZE_OPTIONS, context(folder, tokenizer=tokenizer))
    told = {"recipe": "r", "stage": "s", "kind": "tokenize", "digest": "0" * 64, "parents": {}, "plugins": {}}
    told |= {"options": {"use": "tokenize"}, "started": "", "seconds": 0.0, "measures": []}
    (folder / "stage.json").write_text(json.dumps({**told, "summary": artifact.summary}))
    return folder


def proofs(found: Iterable[Proof]) -> dict[str, Proof]:
    listed = list(found)
    by_claim = {proof.claim: proof for proof in listed}
    assert len(by_claim) == len(listed)
    return by_claim


def failing(found: dict[str, Proof]) -> dict[str, str]:
    return {claim: proof.note for claim, proof in found.items() if not proof.holds}


# Token files


def verify(folder: Path, tokenizer: Path, options: Any = TOKENIZE_OPTIONS) -> dict[str, Proof]:
    return proofs(TOKENIZE.verify(options, context(folder, tokenizer=tokenizer)))


def test_good_token_files_hold(tokens: Path, tokenizer: Path) -> None:
    found = verify(tokens, tokenizer)
    assert not failing(found)
    assert {claim: proof.measured for claim, proof in found.items()} == {
        "files are as long as their indexes say": "0 of 6 files differ",
        "the summary counts what the files hold": "0 of 12 counts differ",
        "document ends increase": "0 of 100 documents differ",
        "all tokens are in the vocabulary": "0 of 100 documents differ",
        "every document ends with its end token": "0 of 100 documents differ",
        "no control token is inside a document": "0 of 100 documents differ",
        "no held-out document is trained on": found["no held-out document is trained on"].measured,
        "documents survive decoding and encoding": "0 of 64 documents differ",
        "lengths are those of the documents": found["lengths are those of the documents"].measured,
        "the sources' text is in the files": "0 of 100 texts differ",
    }


FILE = "one/train/00000_00000_doc_shuffled.ds"


def write(folder: Path, place: int, *values: int, file: str = FILE) -> None:
    """Overwrite tokens of a file, counted from its first; two bytes each."""
    path = folder / "tokens" / file
    content = np.fromfile(path, "<u2")
    content[place : place + len(values)] = values
    content.tofile(path)


def ends(folder: Path) -> np.ndarray:
    return np.fromfile(folder / "tokens" / f"{FILE}.index", "<u8").astype(np.int64)


def truncate(folder: Path) -> None:
    path = folder / "tokens" / FILE
    path.write_bytes(path.read_bytes()[:-2])


def swap_ends(folder: Path) -> None:
    swapped = ends(folder)
    swapped[[3, 4]] = swapped[[4, 3]]
    swapped.astype("<u8").tofile(folder / "tokens" / f"{FILE}.index")


def miscount(folder: Path) -> None:
    content = json.loads((folder / "stage.json").read_text())
    content["summary"]["sources"]["two"]["held_out_tokens"] += 1
    (folder / "stage.json").write_text(json.dumps(content))


def misjudge_length(folder: Path) -> None:
    content = json.loads((folder / "stage.json").read_text())
    lengths = content["summary"]["sources"]["two"]["lengths"]
    lengths[min(lengths, key=int)] += 1
    lengths[max(lengths, key=int)] -= 1
    (folder / "stage.json").write_text(json.dumps(content))


def train_on_held_out(folder: Path) -> None:
    for path in (folder / "tokens" / "two" / "held_out").iterdir():
        shutil.copyfile(path, folder / "tokens" / "one" / "train" / path.name.replace("00000", "00002", 1))


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "files are as long as their indexes say": (truncate, f"{FILE} has "),
    "document ends increase": (swap_ends, f"{FILE}, document 4"),
    "the summary counts what the files hold": (miscount, "'two' held_out_tokens"),
    "all tokens are in the vocabulary": (
        lambda folder: write(folder, 5, VOCABULARY),
        f"{FILE}, token 5 is {VOCABULARY}",
    ),
    "every document ends with its end token": (
        lambda folder: write(folder, int(ends(folder)[2]) - 1, 0),
        f"{FILE}, document 2",
    ),
    "no control token is inside a document": (
        lambda folder: write(folder, 1, VOCABULARY - len(SPECIAL)),
        f"{FILE}, token 1 is {VOCABULARY - len(SPECIAL)}",
    ),
    "no held-out document is trained on": (
        train_on_held_out,
        "is one/train/00002_00000_doc_shuffled.ds, document",
    ),
    "lengths are those of the documents": (misjudge_length, "'two' has "),
    "the sources' text is in the files": (lambda folder: write(folder, 1, 3), " of 'one': 'one "),
}


@pytest.mark.parametrize("claim", DAMAGES)
def test_damage_to_token_files_is_found_and_its_place_named(
    tmp_path: Path, tokens: Path, tokenizer: Path, claim: str
) -> None:
    damage, place = DAMAGES[claim]
    folder = tmp_path / "tokens"
    shutil.copytree(tokens, folder)
    damage(folder)
    wrong = failing(verify(folder, tokenizer))
    assert claim in wrong, wrong
    assert place in wrong[claim], wrong[claim]


def test_tokens_that_no_text_gives_are_found(tmp_path: Path, tokens: Path, tokenizer: Path) -> None:
    """'la' letter by letter, where the tokenizer has learned a token for it."""
    folder = tmp_path / "tokens"
    shutil.copytree(tokens, folder)
    letters = [Tokenizer.from_file(str(tokenizer / "tokenizer" / "tokenizer.json")).token_to_id(x) for x in "la"]
    write(folder, 0, *letters)
    wrong = failing(verify(folder, tokenizer))
    assert f"{FILE}, document 0: 'la" in wrong["documents survive decoding and encoding"]


def test_tokens_of_another_tokenizer_are_found(tmp_path: Path, tokens: Path) -> None:
    options = trained_options(vocab_size=VOCABULARY - 10)
    TRAIN.run(options, context(tmp_path))
    wrong = failing(verify(tokens, tmp_path))
    assert {"all tokens are in the vocabulary", "every document ends with its end token"} <= wrong.keys()


def test_an_end_that_is_no_token_is_found(tokens: Path, tokenizer: Path) -> None:
    options = TOKENIZE.options(tokenizer=StageRef("tokenizer"), sources=SOURCES, end_of_document="<|nope|>")
    assert failing(verify(tokens, tokenizer, options)) == {"the end of a document is a token": "<|nope|> is no token"}


def test_of_large_token_files_a_part_is_read_and_said(
    tokens: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify_tokens, "MOST_TOKENS", 400)
    found = verify(tokens, tokenizer)
    assert not failing(found)
    read = found["all tokens are in the vocabulary"].measured
    assert read.endswith("documents (there are 100) differ") and int(read.split()[2]) < 40
    assert "the sources' text is in the files" not in found


def test_a_source_that_is_gone_is_named_and_nothing_is_claimed_of_it(tokens: Path, tokenizer: Path) -> None:
    gone = Source(
        name="gone",
        summary="",
        options=NumbersOptions,
        read=read_numbers,
        yields=lambda options: "text",
        missing=lambda options: ["not here"],
    )
    options = NumbersOptions(first_word="two")
    both = TOKENIZE.options(
        tokenizer=StageRef("tokenizer"), sources={**SOURCES, "two": Use(gone, options)}, held_out=0.2, files=2
    )
    found = verify(tokens, tokenizer, both)
    assert found["the sources' text is in the files"].measured == "0 of 50 texts (not read: two) differ"


# Tokenizers


def test_a_trained_tokenizer_holds(tokenizer: Path) -> None:
    found = proofs(TRAIN.verify(trained_options(), context(tokenizer)))
    assert not failing(found) and len(found) == 5


def edit_tokenizer(folder: Path, edit: Callable[[Tokenizer], None]) -> None:
    file = folder / "tokenizer" / "tokenizer.json"
    changed = Tokenizer.from_file(str(file))
    edit(changed)
    changed.save(str(file))


def edit_json(file: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def lowercase(folder: Path) -> None:
    edit_tokenizer(folder, lambda changed: setattr(changed, "normalizer", Lowercase()))


def begin_texts(folder: Path) -> None:
    begin = TemplateProcessing(single="<think> $A", special_tokens=[("<think>", VOCABULARY - 1)])
    edit_tokenizer(folder, lambda changed: setattr(changed, "post_processor", begin))


def forget_special_token(folder: Path) -> None:
    edit_json(folder / "tokenizer" / "tokenizer.json", lambda content: content["added_tokens"].pop(1))


def other_eos(folder: Path) -> None:
    edit_json(folder / "tokenizer" / "tokenizer_config.json", lambda content: content.update(eos_token="<think>"))


TOKENIZER_DAMAGES = {
    "any text survives encoding and decoding": (lowercase, "comes back as"),
    "transformers agrees, and adds no token": (begin_texts, str(VOCABULARY - 1)),
    "special tokens are one token each": (forget_special_token, "<|finetune_right_pad_id|> is ["),
    "eos, pad and bos are those asked for": (other_eos, "eos_token is <think>, not <|end_of_text|>"),
    "the vocabulary has the size asked for": (forget_special_token, f"it has {VOCABULARY - 1}"),
}


@pytest.mark.parametrize("claim", TOKENIZER_DAMAGES)
def test_damage_to_a_tokenizer_is_found_and_named(tmp_path: Path, tokenizer: Path, claim: str) -> None:
    damage, place = TOKENIZER_DAMAGES[claim]
    folder = tmp_path / "copy"
    shutil.copytree(tokenizer, folder)
    damage(folder)
    wrong = failing(proofs(TRAIN.verify(trained_options(), context(folder))))
    assert place in wrong[claim]


@pytest.fixture
def renamed(tmp_path: Path, tokenizer: Path) -> tuple[Path, Any]:
    """A tokenizer made from the trained one's file, one token renamed and texts begun by another."""
    options = PRETRAINED.options(
        file=tokenizer / "tokenizer" / "tokenizer.json",
        token_names={str(VOCABULARY - 1): "<|im_start|>"},
        bos_token="<|im_start|>",
    )
    folder = tmp_path / "renamed"
    PRETRAINED.run(options, context(folder))
    return folder, options


def test_a_renamed_tokenizer_holds_against_its_original(renamed: tuple[Path, Any]) -> None:
    folder, options = renamed
    found = proofs(PRETRAINED.verify(options, context(folder)))
    assert not failing(found)
    assert found["other tokens keep their ids"].measured == f"0 of {VOCABULARY - 1} tokens differ"
    assert "transformers agrees; <|im_start|> begins texts" in found


def test_tokens_that_changed_places_are_found(renamed: tuple[Path, Any]) -> None:
    folder, options = renamed

    def swap(content: dict[str, Any]) -> None:
        vocabulary = content["model"]["vocab"]
        vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]

    edit_json(folder / "tokenizer" / "tokenizer.json", swap)
    wrong = failing(proofs(PRETRAINED.verify(options, context(folder))))
    assert "a is now b" in wrong["other tokens keep their ids"]
    assert "texts are tokenised as by the original" in wrong


def test_a_tokenizer_without_its_beginning_is_found(renamed: tuple[Path, Any]) -> None:
    folder, options = renamed
    edit_json(folder / "tokenizer" / "tokenizer.json", lambda content: content.update(post_processor=None))
    wrong = failing(proofs(PRETRAINED.verify(options, context(folder))))
    assert list(wrong) == ["transformers agrees; <|im_start|> begins texts"]
