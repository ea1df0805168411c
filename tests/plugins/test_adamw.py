"""AdamW: which parameters decay, and the update itself."""

import re

import pytest
import torch
from torch import nn

import smolrecipe_adamw
from smolrecipe_adamw import AdamWOptions

(ADAMW,) = smolrecipe_adamw.smolrecipe_optimizers()

DECAYED = (
    "layers.3.attention.qkv_linear.wq.weight",
    "layers.3.attention_norm.weight",
    "norm.weight",
    "model.layers.3.self_attn.q_proj.weight",
    "model.layers.3.input_layernorm.weight",
    "model.norm.weight",
)
SPARED = (
    "tok_embeddings.weight",
    "lm_head.weight",
    "model.embed_tokens.weight",
    "module.model.embed_tokens.weight",
    "_orig_mod.tok_embeddings.weight",
)


def weight_decay(name, options, match=re.search):
    return next(group.settings["weight_decay"] for group in ADAMW.groups(options) if match(group.pattern, name))


@pytest.mark.parametrize("match", [re.search, re.match, re.fullmatch])
def test_embeddings_are_spared_and_norms_are_not(match):
    options = AdamWOptions(lr=1e-3)
    assert {weight_decay(name, options, match) for name in DECAYED} == {0.1}
    assert {weight_decay(name, options, match) for name in SPARED} == {0.0}


def test_patterns_of_the_recipe_replace_the_default():
    options = AdamWOptions(lr=1e-3, weight_decay=0.2, no_decay=(r"norm", r"\.bias$"))
    assert weight_decay("layers.0.attention_norm.weight", options) == 0.0
    assert weight_decay("layers.0.attention.wo.bias", options) == 0.0
    assert weight_decay("tok_embeddings.weight", options) == 0.2
    (only,) = ADAMW.groups(AdamWOptions(lr=1e-3, no_decay=()))
    assert only.pattern == ".*"


@pytest.mark.parametrize("fused", [True, False])
def test_updates_equal_the_paper(fused):
    """Three steps against algorithm 2 of arXiv:1711.05101 in float64, its schedule folded into lr."""
    options = AdamWOptions(lr=0.01, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.5, fused=fused)
    torch.manual_seed(0)
    model = nn.ModuleDict({"norm": nn.LayerNorm(4, bias=False), "lm_head": nn.Linear(4, 3, bias=False)})
    named = dict(model.named_parameters())
    groups = [{"params": [], **group.settings} for group in ADAMW.groups(options)]
    for name, parameter in named.items():
        index = next(i for i, group in enumerate(ADAMW.groups(options)) if re.search(group.pattern, name))
        groups[index]["params"].append(parameter)
    optimizer = ADAMW.factory(options)(groups)
    assert type(optimizer) is torch.optim.AdamW

    expected = {name: parameter.detach().double() for name, parameter in named.items()}
    moments = dict.fromkeys(named, (0.0, 0.0))
    for step in range(1, 4):
        for name, parameter in named.items():
            parameter.grad = torch.randn_like(parameter)
            gradient = parameter.grad.double()
            first = 0.8 * moments[name][0] + 0.2 * gradient
            second = 0.9 * moments[name][1] + 0.1 * gradient**2
            moments[name] = (first, second)
            update = (first / (1 - 0.8**step)) / ((second / (1 - 0.9**step)).sqrt() + 1e-3)
            decay = 0.5 if name == "norm.weight" else 0.0
            expected[name] = expected[name] - 0.01 * (update + decay * expected[name])
        optimizer.step()
    for name, parameter in named.items():
        # float32 against float64 over three steps.
        torch.testing.assert_close(parameter.double(), expected[name], rtol=1e-5, atol=1e-6)


def test_impossible_options_are_reported_before_anything_runs():
    assert not list(ADAMW.check(AdamWOptions(lr=1e-3)))
    for betas in ((0.9,), (0.9, 1.0), (0.9, 0.95, 0.99)):
        (problem,) = ADAMW.check(AdamWOptions(lr=1e-3, betas=betas))
        assert problem.startswith("betas must be two numbers")
    (problem,) = ADAMW.check(AdamWOptions(lr=1e-3, no_decay=("norm", "(")))
    assert "'('" in problem
