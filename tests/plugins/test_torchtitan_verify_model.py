"""What ``smolrecipe verify`` proves of a Hugging Face checkpoint, and that each claim falls with what it is about.

With the decoder alone and components of this file's own; those that ship are compared in ``tests/pipeline``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchtitan.models.common.rope import ComplexRoPE, CosSinRoPE, RoPE
from transformers import AutoConfig, AutoModelForCausalLM, SmolLM3ForCausalLM

from smolrecipe import Model, ModelComponent, ModelDraft, NoOptions, Proof, Use
from smolrecipe_torchtitan import DecoderOptions, smolrecipe_model_components, smolrecipe_verify_model
from smolrecipe_torchtitan.hugging_face import hf_names
from smolrecipe_torchtitan.proofs.cpu_model import build_with, draft_on_cpu, shapes_of
from smolrecipe_torchtitan.proofs.model import verify_model

(DECODER,) = smolrecipe_model_components()
SIZES = {"hidden_size": 32, "num_layers": 4, "num_heads": 4, "intermediate_size": 48, "vocab_size": 64}
CLAIMS = [
    "tensors are the model's",
    "parameters are transformers'",
    "weights are finite",
    "weights are float32, as config.json says",
    "transformers loads them as they are",
    "all layers equal transformers'",
    "logits equal transformers'",
    "all layers equal transformers' at positions up to 499",
    "logits equal transformers' at positions up to 499",
    "4 of 4 layers rotate, the same ones",
    "all layers equal transformers' at another rotary base",
    "logits equal transformers' at another rotary base",
    "and that base changes the logits",
]


def edit(apply: Callable[[ModelDraft], None]) -> ModelComponent:
    return ModelComponent(
        name="edit", summary="", apply=lambda draft, options: apply(draft), to_hf=lambda config, options: None
    )


def model_of(*others: ModelComponent, **changes: Any) -> Model:
    decoder = Use(DECODER, DecoderOptions(**{**SIZES, **changes}))
    return Model({"decoder": decoder, **{other.name: Use(other, NoOptions()) for other in others}})


def checkpoint(folder: Path, model: Model, **config: Any) -> Path:
    """A random checkpoint that transformers itself makes and saves, norms included."""
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 500}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**model.to_hf(), **special, "dtype": "float32", **config}))
    torch.manual_seed(0)
    made = SmolLM3ForCausalLM(AutoConfig.from_pretrained(folder))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.copy_(1 + 0.3 * torch.randn_like(parameter) if "norm" in name else parameter.normal_(std=0.15))
    weights = {name: value for name, value in made.state_dict().items() if name != "lm_head.weight"}
    if not made.config.tie_word_embeddings:
        weights["lm_head.weight"] = made.lm_head.weight.detach()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def proofs_of(folder: Path, model: Model) -> dict[str, Proof]:
    return {proof.claim: proof for proof in verify_model(folder, model)}


def failures(folder: Path, model: Model) -> dict[str, str]:
    return {claim: proof.note for claim, proof in proofs_of(folder, model).items() if not proof.holds}


@pytest.mark.parametrize("changes", [{}, {"tie_embeddings": False}, {"head_dim": 6}, {"num_layers": 36}])
def test_all_holds_of_what_transformers_saved(changes: dict[str, Any], tmp_path: Path) -> None:
    model = model_of(**changes)
    proofs = proofs_of(checkpoint(tmp_path / "model", model), model)
    layers = changes.get("num_layers", 4)
    assert list(proofs) == [claim.replace("4 of 4", f"{layers} of {layers}") for claim in CLAIMS]
    assert [(claim, proof.note) for claim, proof in proofs.items() if not proof.holds] == []


def test_weights_in_several_files(tmp_path: Path) -> None:
    model = model_of()
    folder = checkpoint(tmp_path / "model", model)
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink()
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    assert failures(folder, model) == {}


def test_both_models_share_their_weights(tmp_path: Path) -> None:
    """A model of 3 billion parameters has to fit into memory once, not twice."""
    model = model_of()
    theirs = AutoModelForCausalLM.from_pretrained(checkpoint(tmp_path / "model", model), dtype=torch.float32)
    draft = draft_on_cpu(model, 500)
    names = hf_names(shapes_of(draft), draft.hf_parameters, tied=True)
    held = dict(theirs.named_parameters())
    ours = build_with(draft, {titan: held[hf].detach() for titan, hf in names.items()})
    where = {parameter.data_ptr() for parameter in theirs.parameters()}
    assert {parameter.data_ptr() for parameter in ours.parameters()} == where
    tables = {layer.attention.rope.cache.data_ptr() for layer in ours.layers.values()}
    assert len(tables) == 1


# --- what is wrong with the files -------------------------------------------------------------------------------------


def damaged(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    path = checkpoint(folder, model_of()) / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})
    return folder


def missing(weights: dict[str, torch.Tensor]) -> None:
    del weights["model.layers.1.self_attn.k_proj.weight"]


def extra(weights: dict[str, torch.Tensor]) -> None:
    weights["model.layers.0.self_attn.q_norm.weight"] = torch.ones(8)


def misshapen(weights: dict[str, torch.Tensor]) -> None:
    weights["model.norm.weight"] = torch.ones(16)


def not_a_number(weights: dict[str, torch.Tensor]) -> None:
    weights["model.layers.2.mlp.down_proj.weight"][3, 4] = torch.nan


def halved(weights: dict[str, torch.Tensor]) -> None:
    weights["model.norm.weight"] = weights["model.norm.weight"].bfloat16()


@pytest.mark.parametrize(
    ("change", "claim", "words"),
    [
        (missing, CLAIMS[0], "lacks model.layers.1.self_attn.k_proj.weight"),
        (extra, CLAIMS[0], "has model.layers.0.self_attn.q_norm.weight, which the model does not have"),
        (misshapen, CLAIMS[0], "model.norm.weight is 16 and not 32"),
        (not_a_number, CLAIMS[2], "model.layers.2.mlp.down_proj.weight"),
        (halved, CLAIMS[3], "model.norm.weight is bfloat16"),
    ],
)
def test_damaged_files_are_named(
    change: Callable[[dict[str, torch.Tensor]], None], claim: str, words: str, tmp_path: Path
) -> None:
    found = failures(damaged(tmp_path / "model", change), model_of())
    assert set(found) == {claim}
    assert words in found[claim]


def test_no_weights_at_all(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model", model_of())
    (folder / "model.safetensors").unlink()
    assert "lacks model.embed_tokens.weight" in failures(folder, model_of())[CLAIMS[0]]


def test_weights_that_transformers_changes_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoint(tmp_path / "model", model_of())
    honest = AutoModelForCausalLM.from_pretrained

    def careless(*args: Any, **kwargs: Any) -> Any:
        model = honest(*args, **kwargs)
        model.model.layers[1].mlp.up_proj.weight.data[0, 0] += 1e-3
        return model

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", careless)
    assert failures(folder, model_of()) == {CLAIMS[4]: "model.layers.1.mlp.up_proj.weight"}


def test_a_class_with_other_parameters_is_found(tmp_path: Path) -> None:
    """Biases that no component knows of: ``from_hf`` refuses such a config, and the count would show it too."""
    folder = checkpoint(tmp_path / "model", model_of())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "mlp_bias": True}))
    assert CLAIMS[1] in failures(folder, model_of())


# --- what is wrong with the model -------------------------------------------------------------------------------------


def each_rope(change: Callable[[int, Any], Any]) -> ModelComponent:
    def apply(draft: ModelDraft) -> None:
        for index, layer in enumerate(draft.decoder.layers):
            layer.attention.rope = change(index, layer.attention.rope)

    return edit(apply)


class Still(RoPE):
    """No rotation."""

    @dataclass(kw_only=True, slots=True)
    class Config(RoPE.Config):
        pass

    def _precompute_cache(self) -> torch.Tensor:
        return torch.empty(0)

    def forward(self, query: Any, key: Any, positions: Any = None) -> Any:
        return query, key


class Stubborn(CosSinRoPE):
    """Rotates by the base that it has learned by heart."""

    @dataclass(kw_only=True, slots=True)
    class Config(CosSinRoPE.Config):
        pass

    def _precompute_cache(self) -> torch.Tensor:
        return CosSinRoPE(CosSinRoPE.Config(dim=self.config.dim, max_seq_len=self.config.max_seq_len)).cache


def still(layers: set[int]) -> ModelComponent:
    def change(index: int, rope: Any) -> Any:
        return Still.Config(dim=rope.dim, max_seq_len=rope.max_seq_len, theta=rope.theta) if index in layers else rope

    return each_rope(change)


def test_layers_without_rotation(tmp_path: Path) -> None:
    model = model_of(still({1, 3}))
    folder = checkpoint(tmp_path / "model", model, no_rope_layers=[1, 0, 1, 0])
    assert failures(folder, model) == {}
    swapped = failures(folder, model_of(still({0, 2})))
    compared = ("all layers", "logits")
    assert {claim for claim in swapped if claim.startswith(compared)} == {
        claim for claim in CLAIMS if claim.startswith(compared)
    }
    assert "first in the attention of layer 0" in swapped["all layers equal transformers'"]
    (turning,) = [note for claim, note in swapped.items() if claim.startswith("2 of 4 layers rotate")]
    assert turning.startswith("layer 0 does not rotate as assembled and rotates in transformers; layer 1 rotates as")


@pytest.mark.parametrize(
    ("change", "claims"),
    [
        # Another base shows wherever positions differ, interleaved pairs too, one wrong layer as well as all.
        (lambda index, rope: replace(rope, theta=2e4) if index == 2 else rope, CLAIMS[5:12]),
        (lambda index, rope: ComplexRoPE.Config(dim=rope.dim, max_seq_len=rope.max_seq_len), CLAIMS[5:12]),
        # What does not follow its own base is right until the base changes.
        (
            lambda index, rope: Stubborn.Config(dim=rope.dim, max_seq_len=rope.max_seq_len, theta=rope.theta),
            CLAIMS[10:12],
        ),
    ],
)
def test_wrong_rotation_is_found(change: Callable[[int, Any], Any], claims: list[str], tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model", model_of())
    found = failures(folder, model_of(each_rope(change)))
    assert set(claims) <= set(found)
    assert not set(CLAIMS[:5]) & set(found)
    if claims == CLAIMS[10:12]:
        assert not set(CLAIMS[:10]) & set(found)


def test_one_wrong_layer_is_named(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "model", model_of())

    def apply(draft: ModelDraft) -> None:
        draft.decoder.layers[2].ffn_norm.eps = 1e-2

    found = failures(folder, model_of(edit(apply)))
    assert "first in the feed-forward network of layer 2" in found["all layers equal transformers'"]


def test_rotation_without_effect_is_not_taken_for_equal(tmp_path: Path) -> None:
    """Queries of 0 attend to all alike, however they are turned: then nothing was compared."""

    def mute(weights: dict[str, torch.Tensor]) -> None:
        for index in range(4):
            weights[f"model.layers.{index}.self_attn.q_proj.weight"].zero_()

    found = failures(damaged(tmp_path / "model", mute), model_of())
    assert found["and that base changes the logits"] == "no layer seems to rotate"


def test_other_decoders_are_left_to_their_plugins(tmp_path: Path) -> None:
    stranger = ModelComponent(name="stranger", summary="", apply=lambda draft, options: None, to_hf=None)
    assert list(smolrecipe_verify_model(tmp_path, Model({"stranger": Use(stranger, NoOptions())}))) == []
