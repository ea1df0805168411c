"""``smolrecipe verify`` on checkpoints of the components that ship, as transformers saves them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import SmolLM3Config, SmolLM3ForCausalLM

from smolrecipe.verifying.targets import find_targets
from smolrecipe.verifying.verify import verify
from smolrecipe_registry.discovery import load_registry

SIZES = {
    "vocab_size": 64,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
YARN = {"rope_type": "yarn", "rope_theta": 5e4, "factor": 4.0, "original_max_position_embeddings": 128}
CONFIGS: dict[str, dict[str, Any]] = {
    "defaults": {},  # every fourth layer without rotation, theta 2e6, 32,768 positions
    "8 to 1, untied": {"num_attention_heads": 8, "num_key_value_heads": 1, "tie_word_embeddings": False},
    "every third": {"no_rope_layer_interval": 3},
    "all layers rotate": {"no_rope_layers": [1] * 6},
    "no layer rotates": {"no_rope_layer_interval": 1},
    "yarn": {"rope_parameters": YARN, "max_position_embeddings": 512},
    "yarn with settings": {
        "rope_parameters": YARN | {"beta_fast": 8.0, "beta_slow": 2.0, "attention_factor": 1.25},
        "max_position_embeddings": 512,
        "head_dim": 12,
    },
}


def saved(folder: Path, dtype: torch.dtype = torch.float32, **config: Any) -> Path:
    torch.manual_seed(0)
    model = SmolLM3ForCausalLM(SmolLM3Config(**(SIZES | config)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(1 + 0.3 * torch.randn_like(parameter) if "norm" in name else parameter.normal_(std=0.2))
    model.to(dtype).save_pretrained(folder)
    return folder


def failures(folder: Path) -> dict[str, str]:
    """The notes of all claims that do not hold, of all plugins that know the decoder."""
    registry = load_registry(("torchtitan", "gqa", "rope", "nope", "yarn", "docmask"))
    (target,) = find_targets(folder)
    proofs = list(verify(target, registry.catalog, registry.manager.hook))
    assert len(proofs) > 10 or not all(proof.holds for proof in proofs)
    return {proof.claim: proof.note for proof in proofs if not proof.holds}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CONFIGS)
def test_checkpoints_that_were_made_elsewhere_hold(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    assert failures(saved(tmp_path, dtype, **CONFIGS[name])) == {}


def edited(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    saved(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda config: config.update(no_rope_layers=[0, 0, 0, 1, 0, 0]), "no_rope_layers in config.json"),
        (lambda config: config.update(attention_bias=True), "attention_bias is True"),
        (lambda config: config.update(hidden_act="gelu"), "hidden_act is 'gelu'"),
        (lambda config: config.update(rope_parameters={"rope_type": "llama3"}), "rope_type in config.json"),
        (lambda config: config.update(model_type="qwen2"), "model_type 'qwen2'"),
    ],
)
def test_configs_that_no_component_can_be_are_refused(
    change: Callable[[dict[str, Any]], None], words: str, tmp_path: Path
) -> None:
    (note,) = failures(edited(tmp_path, change)).values()
    assert words in note


def test_a_component_that_does_another_thing_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NoPE the other way round: the config, the names and the shapes are all as they should be."""
    import smolrecipe_nope.rotary

    honest = smolrecipe_nope.rotary.apply

    def swapped(draft: Any, options: Any) -> None:
        before = [layer.attention.rope for layer in draft.decoder.layers]
        honest(draft, options)
        still = next(layer.attention.rope for layer in draft.decoder.layers if layer.attention.rope not in before)
        for index, layer in enumerate(draft.decoder.layers):
            layer.attention.rope = before[index] if (index + 1) % options.every == 0 else still

    monkeypatch.setattr(smolrecipe_nope.rotary, "apply", swapped)
    found = failures(saved(tmp_path))
    assert "layer 0 does not rotate as assembled" in found["5 of 6 layers rotate, the same ones"]
    assert "first in the attention of layer 0" in found["all layers equal transformers'"]
    assert "logits equal transformers'" in found


def test_yarn_without_its_attention_factor_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import smolrecipe_yarn.rotary

    monkeypatch.setattr(smolrecipe_yarn.rotary, "attention_factor", lambda factor: 1.0)
    found = failures(saved(tmp_path, **CONFIGS["yarn"]))
    assert "first in the attention of layer 0" in found["all layers equal transformers'"]
    assert "logits equal transformers' at positions up to 511" in found
