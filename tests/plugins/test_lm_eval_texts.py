"""Perplexities of texts: of models that are easily reckoned, of long texts, of documents that tokenising held out."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from answering_models import WORDS, context, lines, save, settings, texts
from attrs import evolve
from transformers import AutoModelForCausalLM, SmolLM3ForCausalLM

from smolrecipe import Proof, StageError, StageRef
from smolrecipe_lm_eval import EvaluateOptions, run, verify
from smolrecipe_lm_eval.options import HeldOutOptions


def random_model(root: Path, stage: str = "base") -> StageRef:
    torch.manual_seed(3)
    return save(root, stage, SmolLM3ForCausalLM(settings(32, initializer_range=0.5)))


def scores(root: Path, **more: Any) -> dict[str, Any]:
    options = EvaluateOptions(models=[StageRef("base")], **more)
    return dict(run(options, context(root, "base", "tokens", "words")).summary["scores"]["base"])


def test_a_model_that_knows_nothing_is_as_perplexed_as_it_has_tokens(tmp_path: Path) -> None:
    """Thirteen words alike: perplexity 13 with no error; bits per byte differ from text to text by their bytes."""
    model = SmolLM3ForCausalLM(settings(16, tie_word_embeddings=False))
    torch.nn.init.zeros_(model.lm_head.weight)
    save(tmp_path, "base", model)
    rows = ("a b", "one", "three four three")
    found = scores(tmp_path, texts={"words": texts(*rows)})
    per_token, per_byte = found["words, per token"], found["words, per byte"]
    assert (per_token["metric"], per_token["samples"]) == ("perplexity", 3)
    assert per_token["score"] == pytest.approx(len(WORDS), rel=1e-6) and per_token["stderr"] == pytest.approx(
        0, abs=1e-5
    )
    tokens, size = [2, 1, 3], [len(row) for row in rows]
    bits = math.log2(len(WORDS))
    ratio = bits * 6 / sum(size)
    error = math.sqrt(sum((bits * n - ratio * b) ** 2 for n, b in zip(tokens, size, strict=True)) * 3 / 2) / sum(size)
    assert (per_byte["metric"], per_byte["score"]) == ("bits_per_byte", pytest.approx(ratio, rel=1e-6))
    assert per_byte["stderr"] == pytest.approx(error, rel=1e-5)


def test_every_token_follows_all_before_it_from_the_end_of_another_text_on(tmp_path: Path) -> None:
    random_model(tmp_path)
    scores(tmp_path, texts={"words": texts("a b one", "two hm c", "d")}, batch_size=2)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base" / "model").eval()
    for line in lines(tmp_path, "texts", "base"):
        ids = torch.tensor([[WORDS.index(word) for word in ("<eos>", *line["text"].split())]])
        with torch.inference_mode():
            logs = plain(ids[:, :-1]).logits.log_softmax(-1)
        expected = float(logs.gather(2, ids[:, 1:, None]).sum())
        assert line["loglikelihood"] == pytest.approx(expected, abs=1e-4)
        assert (line["tokens"], line["bytes"]) == (ids.shape[1] - 1, len(line["text"]))


def evaluated(root: Path) -> list[Proof]:
    """A short text and one of three windows: 300 tokens, of which the model takes 128."""
    options = EvaluateOptions(models=[StageRef("base")], texts={"words": texts("a b", "one c two " * 100, "three d")})
    where = context(root, "base")
    if not (where.folder / "results.json").exists():
        random_model(root)
        run(options, where)
    return list(verify(options, where))


def test_verify_finds_perplexities_and_likelihoods_right_also_of_texts_longer_than_the_model_takes(
    tmp_path: Path,
) -> None:
    proofs = evaluated(tmp_path)
    assert [proof.claim for proof in proofs] == [
        "perplexities follow from the texts (base)",
        "log-likelihoods are the model's own (base)",
    ]
    assert all(proof.holds for proof in proofs), proofs


def test_verify_finds_a_likelihood_that_is_not_the_model_s(tmp_path: Path) -> None:
    evaluated(tmp_path)
    file = tmp_path / "evaluate.partial" / "texts" / "base.jsonl"
    first, *others = file.read_text().splitlines()
    line = json.loads(first)
    line["loglikelihood"] += 0.5
    file.write_text("\n".join([json.dumps(line), *others]))
    follow, own = evaluated(tmp_path)
    assert not follow.holds and "'words, per byte': score is" in follow.note
    assert not own.holds and own.note.startswith("'words', 'a b'")


def test_verify_finds_an_error_that_the_texts_do_not_give(tmp_path: Path) -> None:
    evaluated(tmp_path)
    file = tmp_path / "evaluate.partial" / "results.json"
    results = json.loads(file.read_text())
    results["scores"]["base"]["words, per token"]["stderr"] *= 1.01
    file.write_text(json.dumps(results))
    follow, own = evaluated(tmp_path)
    assert not follow.holds and follow.note.startswith("'words, per token': stderr is") and own.holds


def test_words_that_a_tokenizer_does_not_know_are_said(tmp_path: Path) -> None:
    random_model(tmp_path)
    settings_file = tmp_path / "base" / "model" / "tokenizer_config.json"
    settings_file.write_text(json.dumps({**json.loads(settings_file.read_text()), "unk_token": "hm"}))
    said: list[str] = []
    options = EvaluateOptions(models=[StageRef("base")], texts={"words": texts("a strange word")})
    run(options, context(tmp_path, "base", said=said))
    assert any("2 tokens of 'words' are the tokenizer's unknown one" in line for line in said)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ((), r"source 'words' \(rows\) has no texts"),
        (("", ""), r"source 'words' \(rows\) has no texts"),
        ((3,), r"row 0 of source 'words' \(rows\) is no text"),
        (("a", "  "), "makes no token at all of text 1 of 'words'"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, rows: tuple[Any, ...], message: str) -> None:
    random_model(tmp_path)
    with pytest.raises(StageError, match=message):
        scores(tmp_path, texts={"words": texts(*rows)})


def tokenised(root: Path, *documents: str) -> HeldOutOptions:
    """Token files as ``tokenize`` publishes them, with documents held out of source 'prose', and their tokenizer."""
    save(root, "words", SmolLM3ForCausalLM(settings(16)))
    folder = root / "tokens" / "tokens"
    (folder / "prose" / "held_out").mkdir(parents=True)
    about = {"vocab_size": len(WORDS), "end_of_document": "<eos>", "end_of_document_id": 1}
    (folder / "tokens.json").write_text(json.dumps(about))
    ids = [[*map(WORDS.index, document.split()), 1] for document in documents]
    path = folder / "prose" / "held_out" / "0.ds"
    numpy.array([token for document in ids for token in document], "<u2").tofile(path)
    numpy.cumsum([len(document) for document in ids], dtype="<i8").tofile(path.with_name("0.ds.index"))
    path.with_name("0.ds.metadata").write_text(f"words|2\n{sum(map(len, ids))}\n")
    return HeldOutOptions(tokens=StageRef("tokens"), tokenizer=StageRef("words"))


def test_documents_that_tokenising_held_out(tmp_path: Path) -> None:
    random_model(tmp_path)
    held_out = tokenised(tmp_path, "one", "two", "three")
    found = scores(tmp_path, held_out=held_out, limit=2)
    assert {name: score["samples"] for name, score in found.items()} == {
        "held-out prose, per byte": 2,
        "held-out prose, per token": 2,
    }
    assert [line["text"] for line in lines(tmp_path, "texts", "base")] == ["one", "two"]


def test_held_out_sources_and_tokenizers_that_are_not_there_are_refused(tmp_path: Path) -> None:
    random_model(tmp_path)
    held_out = tokenised(tmp_path, "one")
    with pytest.raises(StageError, match="'tokens' has no 'code', but prose"):
        scores(tmp_path, held_out=evolve(held_out, sources=["code"]))
    about = tmp_path / "tokens" / "tokens" / "tokens.json"
    about.write_text(about.read_text().replace("<eos>", "<end>"))
    with pytest.raises(StageError, match="the tokenizer of 'words' is not the one that stage 'tokens' used"):
        scores(tmp_path, held_out=held_out)
