"""Muon and AdamW behind one optimizer: which trains what, against both alone, against float64, saved and sharded."""

import re
import subprocess
import sys

import pytest
import smolrecipe_muon
import torch
import torch.distributed as dist
from smolrecipe_muon import MuonOptions
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule, fully_shard

from smolrecipe import StageError
from smolrecipe.testing import conformance

test_contract = conformance("muon")

(MUON,) = smolrecipe_muon.smolrecipe_optimizers()
OPTIONS = MuonOptions(lr=0.02)


class Tiny(nn.Module):
    """An embedding, a wide and a tall matrix, a norm and a head."""

    def __init__(self):
        super().__init__()
        self.tok_embeddings = nn.Embedding(20, 8)
        self.norm = nn.RMSNorm(8)
        self.up = nn.Linear(8, 24, bias=False)
        self.down = nn.Linear(24, 8, bias=True)
        self.lm_head = nn.Linear(8, 20, bias=False)

    def forward(self, tokens):
        return self.lm_head(self.down(self.up(self.norm(self.tok_embeddings(tokens))).relu()))


def model():
    torch.manual_seed(0)
    return Tiny()


def groups_for(tiny, options=OPTIONS):
    """As engines do it: the first group whose pattern is found in the name."""
    groups = [{"params": [], "param_names": [], **group.settings} for group in MUON.groups(options)]
    patterns = [group.pattern for group in MUON.groups(options)]
    for name, parameter in tiny.named_parameters():
        index = next(index for index, pattern in enumerate(patterns) if re.search(pattern, name))
        groups[index]["params"].append(parameter)
        groups[index]["param_names"].append(name)
    return [group for group in groups if group["params"]]


def optimizer_of(tiny, options=OPTIONS):
    return MUON.factory(options)(groups_for(tiny, options))


def backward(tiny, step):
    tokens = torch.randint(20, (64, 9), generator=torch.Generator().manual_seed(step))
    tiny.zero_grad()
    nn.functional.cross_entropy(tiny(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()


def train(tiny, optimizer, steps):
    for step in steps:
        backward(tiny, step)
        optimizer.step()


def same(one, other):
    return all(torch.equal(*pair) for pair in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "algorithm", "decay"),
    [
        ("tok_embeddings.weight", "adamw", 0.0),
        ("model.embed_tokens.weight", "adamw", 0.0),
        ("lm_head.weight", "adamw", 0.0),
        ("layers.3.attention_norm.weight", "adamw", 0.1),
        ("model.layers.3.input_layernorm.weight", "adamw", 0.1),
        ("layers.3.attention.q_norm.weight", "adamw", 0.1),
        ("layers.3.feed_forward.w1.bias", "adamw", 0.1),
        ("layers.3.attention.qkv_linear.wq.weight", "muon", 0.1),
        ("model.layers.3.self_attn.q_proj.weight", "muon", 0.1),
        ("model.layers.3.mlp.down_proj.weight", "muon", 0.1),
    ],
)
@pytest.mark.parametrize("found", [re.search, re.match, re.fullmatch])
def test_who_trains_what(name, algorithm, decay, found):
    settings = next(group.settings for group in MUON.groups(OPTIONS) if found(group.pattern, name))
    assert (settings["algorithm"], settings["weight_decay"]) == (algorithm, decay)


def test_it_is_torchs_two_optimizers_side_by_side():
    """Bit by bit over six steps, with rates that a schedule changes and the two rates apart."""
    options = MuonOptions(lr=0.02, adamw_lr=0.003)
    ours, theirs = model(), model()
    optimizer = optimizer_of(ours, options)
    muon = torch.optim.Muon(
        [theirs.up.weight, theirs.down.weight], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW(
        [
            {"params": [theirs.tok_embeddings.weight, theirs.lm_head.weight], "weight_decay": 0.0},
            {"params": [theirs.norm.weight, theirs.down.bias], "weight_decay": 0.1},
        ],
        lr=0.003,
        betas=(0.9, 0.95),
    )
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(one, lambda step: 1 / (1 + step)) for one in (optimizer, muon, adamw)
    ]
    for step in range(6):
        train(ours, optimizer, [step])
        train(theirs, muon, [step])  # the gradients of both are there
        adamw.step()
        for schedule in schedules:
            schedule.step()
        assert same(ours, theirs)
    assert {round(group["lr"], 6) for group in optimizer.param_groups} == {round(0.02 / 7, 6), round(0.003 / 7, 6)}


def orthogonalised(gradient, steps=5):
    """Keller Jordan's iteration as published, in float64."""
    x = gradient.double() / gradient.double().norm()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if tall else x


def test_a_step_orthogonalises_and_is_as_large_as_moonlights():
    """Against the published iteration in float64; torch's is in bfloat16, good for two digits of the whole matrix."""
    tiny = model()
    optimizer = optimizer_of(tiny, MuonOptions(lr=0.02, weight_decay=0.0, nesterov=False))
    before = {name: parameter.detach().clone() for name, parameter in tiny.named_parameters()}
    train(tiny, optimizer, [0])
    for name in ("up.weight", "down.weight"):
        parameter = tiny.get_parameter(name)
        step = (before[name] - parameter.detach()).double() / (0.02 * 0.2 * max(parameter.shape) ** 0.5)
        expected = orthogonalised(parameter.grad)
        assert (step - expected).norm() < 0.03 * expected.norm()
        assert 0.6 < torch.linalg.svdvals(step).min() <= torch.linalg.svdvals(step).max() < 1.3
        assert torch.linalg.svdvals(parameter.grad / parameter.grad.norm()).min() < 0.3, "the gradient was not"


def test_a_saved_state_goes_on_bit_by_bit():
    whole, first, second = model(), model(), model()
    train(whole, optimizer_of(whole), range(6))
    half = optimizer_of(first)
    train(first, half, range(3))
    second.load_state_dict(first.state_dict())
    rest = optimizer_of(second)
    rest.load_state_dict(half.state_dict())
    train(second, rest, range(3, 6))
    assert same(whole, second)
    forgetful = optimizer_of(first)
    train(first, forgetful, range(3, 6))
    assert not same(whole, first), "without the state it would be another run"


def test_a_state_by_parameter_names_goes_on_bit_by_bit():
    """As distributed checkpoints keep it: flat, by name; it is made by a step with rates of 0 where there is none."""
    flat = StateDictOptions(flatten_optimizer_state_dict=True)
    whole, first, second = model(), model(), model()
    train(whole, optimizer_of(whole), range(6))
    half = optimizer_of(first)
    train(first, half, range(3))
    saved = get_optimizer_state_dict(first, half, options=flat)
    assert "state.up.weight.momentum_buffer" in saved and "state.lm_head.weight.exp_avg" in saved
    second.load_state_dict(first.state_dict())
    rest = optimizer_of(second)
    set_optimizer_state_dict(second, rest, saved, options=flat)
    assert same(first, second), "making room for the state moves nothing"
    train(second, rest, range(3, 6))
    assert same(whole, second)


def test_a_part_of_a_model_may_lack_one_of_them():
    """A middle part of a pipeline has no embeddings; one with only matrices and one with none both train."""
    for part in (nn.Sequential(nn.Linear(4, 4, bias=False)), nn.ModuleDict({"norm": nn.RMSNorm(4)})):
        optimizer = optimizer_of(part)
        (parameter,) = part.parameters()
        parameter.grad = torch.ones_like(parameter)
        before = parameter.detach().clone()
        optimizer.step()
        assert not torch.equal(before, parameter)


def test_what_is_no_matrix_is_refused_by_name():
    with pytest.raises(StageError, match=r"down\.bias has the shape \[8\].*adamw_for"):
        optimizer_of(model(), MuonOptions(lr=0.02, adamw_for=("norm", "embeddings", "lm_head")))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (MuonOptions(lr=1.0, betas=(0.9,)), "two numbers"),
        (MuonOptions(lr=1.0, momentum=1.0), "below 1"),
        (MuonOptions(lr=1.0, adamw_for=("(",)), "adamw_for: '\\('"),
    ],
)
def test_options_that_cannot_be_are_told(options, complaint):
    (problem,) = MUON.check(options)
    assert re.search(complaint, problem)
    assert not list(MUON.check(OPTIONS))


def shard_and_compare():
    """In each of two processes: FSDP2's shards of the model against the whole of it here."""
    dist.init_process_group("gloo")
    whole, shared, start = model(), model(), model()
    for module in (*shared.children(), shared):
        fully_shard(module)
    for module in shared.modules():
        if isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(True)  # gloo cannot scale while it sums
    for tiny in (whole, shared):
        train(tiny, optimizer_of(tiny), [0])
    for name, parameter in whole.named_parameters():
        moved = (parameter - start.get_parameter(name)).norm()
        shard = shared.get_parameter(name)
        apart = (shard.full_tensor() - parameter).norm() / moved
        # AdamW computes in float32, Muon in bfloat16: its sums are rounded in another order.
        bound = 0.03 if name in ("up.weight", "down.weight") else 1e-4
        assert moved > 0 and apart < bound, f"{name} moved another way: {apart:.3g}"
        assert shard.to_local().numel() < parameter.numel(), f"{name} is not sharded"
    dist.destroy_process_group()


def test_shards_move_as_the_whole_does():
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr


if __name__ == "__main__":
    shard_and_compare()
