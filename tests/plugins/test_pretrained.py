"""Models from outside: what is brought in is what transformers saved, and what does not fit is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, SmolLM3Config, SmolLM3ForCausalLM

from smolrecipe import StageContext, StageError
from smolrecipe_pretrained import (
    PretrainedModelOptions,
    check,
    from_reference,
    missing,
    produces,
    run,
    smolrecipe_stages,
    verify,
)

SIZES = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
KEY = "model.layers.1.self_attn.k_proj.weight"


def save_model(folder: Path, *, shard: str = "5GB", dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    torch.manual_seed(0)
    model = SmolLM3ForCausalLM(SmolLM3Config(**{**SIZES, **changes})).to(dtype)
    model.save_pretrained(folder, max_shard_size=shard)
    vocabulary = {"<pad>": 0, "<eos>": 1, **{f"w{number}": number for number in range(2, 32)}}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token="<pad>")), eos_token="<eos>", pad_token="<pad>"
    )
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(tmp_path / "model")


def bring_in(source: Path, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path / "artifact"
    folder.mkdir(exist_ok=True)
    context = StageContext(recipe="test", stage="base", folder=folder)
    return folder, dict(run(PretrainedModelOptions(folder=source), context).summary)


def refusal(source: Path, tmp_path: Path) -> str:
    with pytest.raises(StageError) as caught:
        bring_in(source, tmp_path)
    return str(caught.value)


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shard", ["5GB", "4KB"])
def test_every_bit_arrives(tied: bool, dtype: torch.dtype, shard: str, tmp_path: Path) -> None:
    """Sharded or not, tied or not, in its dtype; transformers and AutoTokenizer load it as they loaded the original."""
    source = save_model(tmp_path / "model", shard=shard, dtype=dtype, tie_word_embeddings=tied)
    assert (len(list(source.glob("*.safetensors"))) > 1) == (shard == "4KB")
    folder, summary = bring_in(source, tmp_path)
    before = AutoModelForCausalLM.from_pretrained(source, dtype="auto").state_dict()
    after = AutoModelForCausalLM.from_pretrained(folder / "model", dtype="auto").state_dict()
    assert before.keys() == after.keys()
    assert all(after[name].dtype == dtype and torch.equal(after[name], value) for name, value in before.items())
    for tokenizer in ("model", "tokenizer"):
        loaded = AutoTokenizer.from_pretrained(folder / tokenizer)
        assert loaded.eos_token_id == 1 and loaded.chat_template and loaded.vocab_size == 32
    parameters = sum(value.numel() for value in AutoModelForCausalLM.from_pretrained(source).parameters())
    assert summary["parameters"] == parameters and summary["tokenizer"]
    assert all(proof.holds for proof in verify(PretrainedModelOptions(folder=source), context_of(folder)))


def context_of(folder: Path) -> StageContext:
    return StageContext(recipe="test", stage="base", folder=folder)


def test_a_missing_an_extra_and_a_misshapen_tensor_are_refused_together(model: Path, tmp_path: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[KEY]
        tensors["model.layers.0.self_attn.q_norm.weight"] = torch.ones(4)
        tensors["model.norm.weight"] = torch.ones(8)

    edit(model, change)
    said = refusal(model, tmp_path)
    assert f"lacks {KEY}" in said
    assert "has model.layers.0.self_attn.q_norm.weight, which the model of its config.json does not have" in said
    assert "has model.norm.weight of shape 8 instead of 16" in said


def test_verify_names_what_was_changed_after_publishing(model: Path, tmp_path: Path) -> None:
    folder, _ = bring_in(model, tmp_path)
    edit(folder / "model", lambda tensors: tensors.__delitem__(KEY))
    (proof,) = verify(PretrainedModelOptions(folder=model), context_of(folder))
    assert not proof.holds and KEY in proof.note


def test_a_tied_matrix_may_be_stored_twice_if_it_is_the_same(model: Path, tmp_path: Path) -> None:
    edit(model, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}))
    bring_in(model, tmp_path)
    edit(model, lambda tensors: tensors.update({"lm_head.weight": tensors["lm_head.weight"] + 1}))
    assert "ties lm_head.weight to model.embed_tokens.weight and holds other values" in refusal(model, tmp_path)


def test_files_that_are_cut_short_missing_or_pickles(tmp_path: Path) -> None:
    source = save_model(tmp_path / "sharded", shard="4KB")
    shards = sorted(source.glob("*.safetensors"))
    whole = shards[1].read_bytes()
    shards[1].write_bytes(whole[:-8])
    assert f"{shards[1]} is no whole safetensors file" in refusal(source, tmp_path)
    shards[1].unlink()
    assert "a file is missing or of another model" in refusal(source, tmp_path)
    for shard in source.glob("*.safetensors"):
        shard.unlink()
    (source / "model.safetensors.index.json").unlink()
    (source / "pytorch_model.bin").touch()
    assert "pytorch_model.bin is a pickle, which is never loaded" in refusal(source, tmp_path)


def test_configurations_that_make_no_model(model: Path, tmp_path: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    for changes in ({"model_type": "unheard_of"}, {"model_type": "mine", "auto_map": {"AutoConfig": "code.Config"}}):
        (model / "config.json").write_text(json.dumps({**config, **changes}))
        (model / "code.py").write_text("raise SystemExit('code from a model folder was run')")
        assert "transformers makes no model from" in refusal(model, tmp_path)
    (model / "config.json").write_text("{")
    assert refusal(model, tmp_path).startswith(f"{model / 'config.json'} is no JSON (line 1, column 2")


def test_an_interrupted_stage_starts_afresh(model: Path, tmp_path: Path) -> None:
    folder, _ = bring_in(model, tmp_path)
    (folder / "model" / "stale.safetensors").touch()
    bring_in(model, tmp_path)
    assert not (folder / "model" / "stale.safetensors").exists()


def test_what_a_recipe_may_write() -> None:
    assert from_reference("org/name") == PretrainedModelOptions(id="org/name")
    assert from_reference("org/name@v1") == PretrainedModelOptions(id="org/name", revision="v1")
    assert from_reference("/a/b@c") == PretrainedModelOptions(folder=Path("/a/b@c"))


def test_mistakes_are_found_before_anything_runs(model: Path, tmp_path: Path) -> None:
    assert list(check(PretrainedModelOptions(id="org/name"))) == []
    (neither,) = check(PretrainedModelOptions())
    (both,) = check(PretrainedModelOptions(id="a/b", folder=model))
    assert neither == both == "give either 'id' or 'folder'"
    (revision,) = check(PretrainedModelOptions(folder=model, revision="main"))
    assert "a folder has none" in revision
    (deep,) = check(PretrainedModelOptions(id="a/b/c"))
    assert "write a folder as ./a/b/c" in deep
    assert list(missing(PretrainedModelOptions(folder=model))) == []
    (gone,) = missing(PretrainedModelOptions(folder=tmp_path / "gone"))
    assert "is no Hugging Face checkpoint" in gone


def test_a_folder_without_tokenizer_offers_none(model: Path) -> None:
    assert produces(PretrainedModelOptions(folder=model)) == {"hf-model": True, "tokenizer": True}
    (model / "tokenizer.json").unlink()
    assert "has no tokenizer.json" in produces(PretrainedModelOptions(folder=model))["tokenizer"]


def test_a_model_on_the_hub_comes_from_its_cache_without_a_network(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub's own cache layout, as an earlier download leaves it; nothing is asked of the network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "hub" / "models--org--name"
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(model, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    context = context_of(tmp_path / "artifact")
    context.folder.mkdir()
    artifact = run(PretrainedModelOptions(id="org/name"), context)
    assert artifact.summary["commit"] == commit and artifact.summary["origin"] == "org/name"
    assert (context.folder / "model" / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


def test_without_the_hub_the_remedies_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(StageError, match="is not on this machine, and the Hugging Face Hub did not answer"):
        run(PretrainedModelOptions(id="org/name", revision="v1"), context_of(tmp_path))


def test_the_stage_is_offered() -> None:
    (kind,) = smolrecipe_stages()
    assert kind.name == "pretrained_model" and kind.imports is from_reference
