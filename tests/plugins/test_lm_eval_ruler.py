"""RULER: its texts, its scores, and the tokenizers and lengths that it cannot be made for."""

from __future__ import annotations

import json
import pydoc_data.topics
from pathlib import Path
from typing import Any

import answering_models
import pytest
import torch
from answering_models import context, lines
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, SmolLM3Config, SmolLM3ForCausalLM

from smolrecipe import Proof, StageError, StageRef
from smolrecipe_lm_eval import EvaluateOptions, run, verify
from smolrecipe_lm_eval.options import RulerOptions

pytest.importorskip("wonderwords", reason="RULER needs wonderwords: pip install 'smolrecipe[eval]'")

VOCABULARY = 2000


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of Python's own help texts."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=alphabet, special_tokens=["<eos>"], show_progress=False
    )
    made.train_from_iterator(pydoc_data.topics.topics.values(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>", pad_token="<eos>")


def publish(root: Path, tokenizer: PreTrainedTokenizerFast, positions: int) -> StageRef:
    torch.manual_seed(1)
    config = SmolLM3Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=positions,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        pad_token_id=0,
        eos_token_id=0,
        bos_token_id=None,
        initializer_range=0.3,
    )
    SmolLM3ForCausalLM(config).save_pretrained(root / "base" / "model")
    tokenizer.save_pretrained(root / "base" / "model")
    return StageRef("base")


def asked(length: int, *tasks: Any) -> EvaluateOptions:
    ruler = RulerOptions(lengths=[length], tasks=[*tasks], batch_size=2)
    return EvaluateOptions(models=[StageRef("base")], ruler=ruler, limit=3)


def changed(root: Path, **values: Any) -> None:
    """Give the first published answer to RULER other values."""
    file = root / "evaluate.partial" / "ruler" / "base.jsonl"
    first, *others = file.read_text().splitlines()
    file.write_text("\n".join([json.dumps({**json.loads(first), **values}), *others]))


def test_scores_at_a_length_and_what_verify_finds_of_them(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    publish(tmp_path, tokenizer, positions=512)
    options, where = asked(512, "niah_single_1", "fwe"), context(tmp_path, "base")
    found = run(options, where).summary["scores"]["base"]
    assert {name: score["samples"] for name, score in found.items()} == {
        "niah_single_1 @ 512": 3,
        "fwe @ 512": 3,
        "ruler @ 512": 6,
    }
    assert all(score["metric"] == "string_match" and score["stderr"] is not None for score in found.values())
    needles, words = lines(tmp_path, "ruler", "base")[:3], lines(tmp_path, "ruler", "base")[3:]
    assert all(line["words"][0] in line["prompt"] and line["most_tokens"] == 128 for line in needles)
    assert all(len(line["words"]) == 3 for line in words)
    # Texts of fwe reach over their length; their first words, which lm-eval would cut off, are there all the same.
    assert all(line["prompt"].startswith("Read the following coded text") for line in words)
    proofs = list(verify(options, where))
    assert [proof.claim for proof in proofs] == [
        "scores of RULER follow from the answers (base)",
        "answers to RULER are the model's own (base)",
    ]
    assert all(proof.holds for proof in proofs), proofs

    changed(tmp_path, given=f"IT IS {needles[0]['words'][0]}")
    wrong: list[Proof] = list(verify(options, where))
    assert [proof.holds for proof in wrong] == [False, False]
    assert "'ruler @ 512': score is 0.0, and 0.1667" in wrong[0].note
    assert "'niah_single_1 @ 512': score is 0.0, and 0.3333" in wrong[0].note


def test_texts_follow_from_seed_length_and_tokenizer_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    """Not from what was made before in the same process: an interrupted evaluation goes on with the same ones."""
    from smolrecipe_lm_eval.ruler import _made

    options = asked(1536, "cwe")
    once, again = ([*_made("cwe", 1536, tokenizer, "base", options).test_docs()["input"]] for _ in range(2))
    assert once == again and len(set(once)) == 500


@pytest.mark.parametrize("task", ["vt", "cwe"])
def test_a_length_without_room_for_a_text_is_refused_and_no_loop_goes_on_for_ever(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, task: str
) -> None:
    publish(tmp_path, tokenizer, positions=300)
    with pytest.raises(StageError, match=f"'{task} @ 300' cannot be made with the tokenizer of 'base'"):
        run(asked(300, task), context(tmp_path, "base"))


def test_more_than_a_model_takes_is_refused_before_it_is_loaded(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    publish(tmp_path, tokenizer, positions=256)
    (tmp_path / "base" / "model" / "model.safetensors").unlink()
    with pytest.raises(StageError, match="contexts of 512 tokens, and the model of 'base' takes 256"):
        run(asked(512, "niah_single_1"), context(tmp_path, "base"))


def test_a_tokenizer_that_cannot_write_the_needle_is_refused(tmp_path: Path) -> None:
    from smolrecipe_lm_eval.ruler import _made

    answering_models.chain(tmp_path, "base", {})
    words = AutoTokenizer.from_pretrained(tmp_path / "base" / "model")
    with pytest.raises(StageError, match=r"asks for '\d+', which the tokenizer of 'base' cannot write"):
        _made("niah_single_1", 512, words, "base", asked(512, "niah_single_1"))


def test_patience_ends_loops_that_make_texts_shorter_and_longer() -> None:
    from smolrecipe_lm_eval.fitting import PatientTokenizer

    class Endless:
        def __call__(self, text: str) -> Any:
            return type("Encoding", (), {"input_ids": [0] * (10 + len(text))})()

    patient = PatientTokenizer(Endless(), calls=50)  # type: ignore[arg-type]
    assert len(patient("").input_ids) == 10 and not patient.gave_up
    for _ in range(3):  # samples of a loop that swallows everything until a text fits
        while True:
            try:
                if len(patient("").input_ids) <= 5:
                    break
            except:  # noqa: E722  as lm-eval has it
                pass
    assert patient.gave_up
    with pytest.raises(ValueError, match="short enough"):
        while len(patient("").input_ids) < 5:
            pass
