"""Packed rows attend document by document on a CPU, with the result of transformers' own dense mask."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch

pytest.importorskip("trl", reason="trains with TRL: pip install 'smolrecipe[trl]'")

from transformers import LlamaConfig, MistralConfig, PretrainedConfig, Qwen2Config, Qwen3Config, SmolLM3Config
from transformers.models.auto import AutoModelForCausalLM

from smolrecipe_trl.documentwise import KERNEL, attend, can_attend

SIZE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
}
CONFIGS = {
    "smollm3": SmolLM3Config(**SIZE, no_rope_layers=[1, 0]),
    "llama": LlamaConfig(**SIZE),
    "qwen2": Qwen2Config(**{name: value for name, value in SIZE.items() if name != "head_dim"}),
    "qwen3": Qwen3Config(**SIZE),
}
LENGTHS = [5, 1, 10, 8]


def models(config: PretrainedConfig) -> list[Any]:
    """The same model with our kernel and with torch's under a mask."""
    made = []
    for kernel in (KERNEL, "sdpa"):
        torch.manual_seed(0)
        made.append(AutoModelForCausalLM.from_config(deepcopy(config), attn_implementation=kernel))
        assert made[-1].config._attn_implementation == kernel
    return made


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(1, 64, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", CONFIGS)
def test_packed_rows_have_the_losses_and_gradients_of_the_dense_mask(kind: str) -> None:
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    row = tokens(1, sum(LENGTHS))
    found = []
    for model in models(CONFIGS[kind]):
        model.train()
        loss = model(input_ids=row, position_ids=positions, labels=row, use_cache=False).loss
        loss.backward()
        found.append([loss.detach(), *(parameter.grad for parameter in model.parameters())])
    for ours, theirs in zip(*found, strict=True):
        # float32 sums in another order, through two layers.
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_tokens_of_padded_rows_have_the_logits_of_the_dense_mask(kind: str) -> None:
    rows, mask = tokens(3, 12), torch.ones(3, 12, dtype=torch.long)
    mask[0, 7:] = mask[2, 3:] = 0
    ours, theirs = (model(input_ids=rows, attention_mask=mask).logits[mask.bool()] for model in models(CONFIGS[kind]))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_documents_do_not_see_each_other() -> None:
    ours, _ = models(CONFIGS["smollm3"])
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]])
    row = tokens(1, 8)
    other = row.clone()
    other[:, :4] = 64 - row[:, :4]
    logits = [ours(input_ids=each, position_ids=positions).logits[:, 4:] for each in (row, other)]
    assert torch.equal(*logits)


def test_rows_laid_in_a_batch_keep_their_documents_apart() -> None:
    ours, theirs = models(CONFIGS["llama"])
    positions = torch.tensor([[0, 1, 2, 0, 1, 2], [0, 0, 1, 2, 3, 4]])
    rows = tokens(2, 6)
    found = ours(input_ids=rows, position_ids=positions).logits
    one_by_one = [
        theirs(input_ids=rows[i : i + 1], position_ids=positions[i : i + 1], use_cache=False).logits for i in range(2)
    ]
    torch.testing.assert_close(found, torch.cat(one_by_one), rtol=1e-4, atol=1e-6)


def test_only_models_that_are_nothing_but_causal_are_attended_to() -> None:
    assert all(can_attend(config) for config in CONFIGS.values())
    assert not can_attend(MistralConfig(**SIZE))
    windowed = SmolLM3Config(**SIZE, use_sliding_window=True, sliding_window=4)
    assert not can_attend(windowed)


def test_a_mask_is_refused() -> None:
    heads = torch.zeros(1, 1, 2, 4)
    mask = torch.ones(1, 1, 2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="takes no mask"):
        attend(torch.nn.Module(), heads, heads, heads, mask, position_ids=torch.arange(2)[None])
