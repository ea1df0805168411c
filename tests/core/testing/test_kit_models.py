"""The checks of model components: each catches a component that breaks it, and those of all built-in plugins pass."""

from dataclasses import dataclass, field
from unittest import SkipTest

import pytest
import spmd_types as spmd
import torch
from attrs import evolve, frozen
from titan_toys import make_model, make_options
from torch import nn
from torchtitan.models.common import Linear, RMSNorm
from torchtitan.models.common.decoder_sharding import dense_activation_placement, dense_param_placement
from torchtitan.models.common.feed_forward import FeedForward
from torchtitan.protocols.module import Module
from torchtitan.protocols.sharding import ShardingConfig

from smolrecipe import ModelComponent, NoOptions, option
from smolrecipe.testing.contract import ContractError, example_of
from smolrecipe.testing.decoders import CausalAttention
from smolrecipe.testing.models import checks
from smolrecipe_registry.discovery import load_registry

SHARDED = ("data parallelism shards it", "tensor parallelism shards it")
CATALOG = load_registry().catalog


@frozen(kw_only=True)
class Options:
    eps: float = option(default=1e-6, more_than=0, doc="epsilon of the norms")
    settings: dict = option(factory=lambda: {"seen": 0}, doc="something that could be changed")


def qk_norm(draft, options, weights=spmd.R):
    """Norms of queries and keys, as in torchtitan's Qwen3: two new parameters in every layer."""
    heads = dense_activation_placement(tp=spmd.S(2))
    for layer in draft.layers("qk_norm"):
        layer.attention.qk_norm = RMSNorm.Config(
            normalized_shape=16,
            eps=options.eps,
            param_init={"weight": nn.init.ones_},
            sharding_config=ShardingConfig(
                state_shardings={"weight": dense_param_placement(tp=weights)},
                in_src_shardings={"input": heads},
                in_dst_shardings={"input": heads},
                out_src_shardings=heads,
                out_dst_shardings=heads,
            ),
        )
    for name in ("q_norm", "k_norm"):
        draft.hf_parameters[f"layers.{{}}.attention.{name}.weight"] = f"model.layers.{{}}.self_attn.{name}.weight"


def to_hf(config, options):
    config["model_type"] = "qwen3"
    config["qk_norm_eps"] = options.eps


def from_hf(config):
    return Options(eps=config["qk_norm_eps"]) if config.get("model_type") == "qwen3" else None


GOOD = ModelComponent(
    name="qk_norm",
    summary="norms of queries and keys",
    source="arXiv:2302.05442",
    options=Options,
    apply=qk_norm,
    to_hf=to_hf,
    from_hf=from_hf,
    after=("decoder",),
)


def outcomes(component, options, without=()):
    """The checks that fail and those that are skipped, each with what it says."""
    failed, skipped = {}, {}
    for check in checks(component, options):
        if check.name in without:
            continue
        try:
            check.run()
        except ContractError as error:
            failed[check.name] = str(error)
        except SkipTest as reason:
            skipped[check.name] = str(reason)
    return failed, skipped


@pytest.mark.parametrize("name", ["decoder", "docmask", "gqa", "nope", "rope", "yarn"])
def test_built_ins_hold_their_contract(name):
    component = CATALOG.get(ModelComponent, name)
    assert outcomes(component, example_of(component, CATALOG)) == ({}, {})


def test_a_component_with_parameters_of_its_own_holds_it():
    assert outcomes(GOOD, Options()) == ({}, {})
    assert len(list(checks(GOOD, Options()))) == 19
    assert not torch.distributed.is_initialized()


def test_what_a_component_declares_not_to_have_is_skipped():
    failed, skipped = outcomes(evolve(GOOD, to_hf=None, from_hf=None), Options())
    assert not failed
    assert skipped == {
        "new parameters have Hugging Face names": "model component 'qk_norm' says that it has no Hugging Face "
        "counterpart"
    }
    alone = evolve(GOOD, check_draft=lambda options, draft: ["no sharing"] if draft.tensor_parallel > 1 else [])
    failed, skipped = outcomes(alone, Options())
    assert not failed and list(skipped) == ["tensor parallelism shards it"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")
def test_what_needs_a_gpu_is_tried_as_far_as_it_goes_without():
    component = CATALOG.get(ModelComponent, "docmask")
    failed, skipped = outcomes(component, component.options(backend="varlen"))
    assert not failed
    assert skipped["its logits are finite"] == "model component 'docmask' computes on a GPU and there is none"
    assert "every weight gets an initial value" not in skipped


def test_pretraining_tells_components_how_their_model_is_to_be_shared():
    from smolrecipe_torchtitan import ParallelismOptions
    from smolrecipe_torchtitan.assemble import draft_model
    from smolrecipe_torchtitan.checks import check_pretrain

    told = []
    alone = evolve(
        GOOD,
        options=NoOptions,
        to_hf=None,
        from_hf=None,
        apply=lambda draft, options: told.append(draft.tensor_parallel),
        check_draft=lambda options, draft: ["it cannot be shared"] if draft.tensor_parallel > 1 else [],
    )
    options = make_options(model=make_model(alone), parallelism=ParallelismOptions(tensor_parallel=2))
    assert "it cannot be shared" in list(check_pretrain(options))
    draft_model(options)
    assert told == [2]


# What breaks a check


class Leaky(CausalAttention):
    """Sees everything, the future included."""

    @dataclass(kw_only=True, slots=True)
    class Config(CausalAttention.Config):
        pass

    def forward(self, q_BLNH, k_BLNH, v_BLNH, **kwargs):
        q, k, v = (x.transpose(1, 2) for x in (q_BLNH, k_BLNH, v_BLNH))
        return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)


class Infinite(CausalAttention):
    """Divides by nothing."""

    @dataclass(kw_only=True, slots=True)
    class Config(CausalAttention.Config):
        pass

    def forward(self, q_BLNH, k_BLNH, v_BLNH, **kwargs):
        return CausalAttention.forward(self, q_BLNH, k_BLNH, v_BLNH) / 0


class Gated(FeedForward):
    """A feed-forward network with a gain of its own, in several ways."""

    @dataclass(kw_only=True, slots=True)
    class Config(FeedForward.Config):
        device: str | None = None
        used: bool = True
        param_init: dict | None = field(default_factory=lambda: {"gain": nn.init.ones_})

    def __init__(self, config):
        super().__init__(config)
        self.used = config.used
        self.gain = nn.Parameter(torch.empty(64, device=config.device))

    def forward(self, x):
        return super().forward(x) * self.gain if self.used else super().forward(x)


class Unbuildable(Module):
    """Not a module of torchtitan's inside."""

    @dataclass(kw_only=True, slots=True)
    class Config(CausalAttention.Config):
        pass

    def __init__(self, config):
        super().__init__()
        self.plain = nn.Linear(2, 2)


def attention(config):
    def apply(draft, options):
        for layer in draft.layers("qk_norm"):
            layer.attention.inner_attention = config()

    return apply


def gated(**settings):
    def apply(draft, options):
        for layer in draft.layers("qk_norm"):
            old = layer.feed_forward
            layer.feed_forward = Gated.Config(w1=old.w1, w2=old.w2, w3=old.w3, **settings)
        draft.hf_parameters["layers.{}.feed_forward.gain"] = "model.layers.{}.mlp.gain"

    return apply


SHARED = CausalAttention.Config()
COUNT = iter(range(1000))


def shares_a_config(draft, options):
    draft.layers("qk_norm")[0].attention.inner_attention = SHARED


def one_for_all_layers(draft, options):
    config = CausalAttention.Config()
    for layer in draft.layers("qk_norm"):
        layer.attention.inner_attention = config


def depends_on_the_call(draft, options):
    draft.layers("qk_norm")[0].attention_norm.eps = 1e-6 * (1 + next(COUNT))


def widens_each_time(draft, options):
    for layer in draft.layers("qk_norm"):
        layer.attention_norm.eps *= 2


def takes_options_apart(draft, options):
    qk_norm(draft, options)
    options.settings["seen"] += 1


def changes_the_plan(draft, options):
    qk_norm(draft, options)
    draft.sequence_length *= 2


def returns_the_draft(draft, options):
    qk_norm(draft, options)
    return draft


def looks_at_nothing(draft, options):
    for layer in draft.decoder.layers:
        layer.attention_norm.eps = options.eps


def does_nothing_without(draft, options):
    if draft.decoder is not None:
        qk_norm(draft, options)


def forgets_names(draft, options):
    qk_norm(draft, options)
    del draft.hf_parameters["layers.{}.attention.k_norm.weight"]


def misspells_names(draft, options):
    qk_norm(draft, options)
    draft.hf_parameters["layers.{}.attention.qnorm.weight"] = "model.layers.{}.self_attn.qnorm.weight"


def names_twice(draft, options):
    qk_norm(draft, options)
    draft.hf_parameters["layers.{}.attention.k_norm.weight"] = "model.layers.{}.self_attn.q_norm.weight"


def wide_vocabulary(draft, options):
    draft.layers("qk_norm")
    draft.decoder.lm_head = Linear.Config(in_features=64, out_features=100, param_init={"weight": nn.init.ones_})


def shards_what_heads_share(draft, options):
    qk_norm(draft, options, weights=spmd.S(0))


NOTES = ["all that was written"]


def hands_out_its_list(config, options):
    to_hf(config, options)
    config["notes"] = NOTES


def grows(config, options):
    to_hf(config, options)
    config["calls"] = next(COUNT)


MUTANTS = {
    "what it comes after is named": [
        (evolve(GOOD, after="decoder"), "('decoder',)"),
        (evolve(GOOD, after=("qk_norm",)), "itself"),
    ],
    "its longest sequence is a number of tokens": [
        (evolve(GOOD, max_positions=lambda options: 64.0), "64.0"),
        (evolve(GOOD, max_positions=lambda options: 0), "0"),
    ],
    "it says in sentences what it refuses": [
        (evolve(GOOD, check_draft=lambda options, draft: list(draft.decoder.layers)), "no decoder yet"),
        (evolve(GOOD, check_draft=lambda options, draft: [True] if draft.context_parallel > 1 else []), "True"),
        (evolve(GOOD, check_draft=lambda options, draft: draft.hf_parameters.update(a="b") or ()), "edits the draft"),
    ],
    "it makes a decoder, or says that it needs one": [
        (evolve(GOOD, apply=looks_at_nothing, to_hf=None, from_hf=None), "draft.layers('qk_norm')"),
        (evolve(GOOD, apply=does_nothing_without), "does nothing"),
    ],
    "it edits the draft and nothing else": [
        (evolve(GOOD, apply=returns_the_draft), "returns ModelDraft"),
        (evolve(GOOD, apply=takes_options_apart), "changes the options"),
        (evolve(GOOD, apply=changes_the_plan), "built for"),
    ],
    "every draft gets a model of its own": [
        (evolve(GOOD, apply=shares_a_config), "CausalAttention.Config"),
        (evolve(GOOD, apply=depends_on_the_call), "attention_norm.eps"),
    ],
    "every layer gets configs of its own": [(evolve(GOOD, apply=one_for_all_layers), "layers 0 and 1")],
    "applied again, it changes nothing or refuses": [(evolve(GOOD, apply=widens_each_time), "attention_norm.eps")],
    "it writes JSON into config.json": [
        (evolve(GOOD, to_hf=lambda config, options: config.update(eps={1: (2,)}), from_hf=None), "'eps'"),
        (evolve(GOOD, to_hf=lambda config, options: dict(config), from_hf=None), "returns dict"),
    ],
    "it writes the same every time": [
        (evolve(GOOD, to_hf=hands_out_its_list, from_hf=None), "'notes'"),
        (evolve(GOOD, to_hf=grows, from_hf=None), "'calls'"),
    ],
    "it reads back what it wrote": [
        (evolve(GOOD, from_hf=lambda config: Options() if config else None), "qk_norm_eps"),
        (evolve(GOOD, from_hf=lambda config: Options(eps=config.get("qk_norm_eps", 1e-6))), "says nothing"),
        (evolve(GOOD, from_hf=lambda config: None), "returns None"),
        (evolve(GOOD, from_hf=lambda config: Options(eps=config.pop("qk_norm_eps"))), "only read"),
    ],
    "its model can be built without memory": [
        (evolve(GOOD, apply=attention(Unbuildable.Config)), "Module protocol"),
        (evolve(GOOD, apply=gated(device="cpu")), "layers.0.feed_forward.gain"),
    ],
    "every weight gets an initial value": [
        (evolve(GOOD, apply=gated(param_init={"gain": lambda gain: None})), "layers.0.feed_forward.gain"),
    ],
    "its logits are finite": [
        (evolve(GOOD, apply=attention(Infinite.Config)), "not finite"),
        (evolve(GOOD, apply=wide_vocabulary), "(2, 32, 100)"),
    ],
    "no token sees a later one": [(evolve(GOOD, apply=attention(Leaky.Config)), "must not see")],
    "every parameter gets a gradient": [(evolve(GOOD, apply=gated(used=False)), "layers.0.feed_forward.gain")],
    "data parallelism shards it": [(evolve(GOOD, apply=gated()), "sharding_config")],
    "tensor parallelism shards it": [(evolve(GOOD, apply=shards_what_heads_share), "2 of which share each matrix")],
    "new parameters have Hugging Face names": [
        (evolve(GOOD, apply=forgets_names), "layers.{}.attention.k_norm.weight"),
        (evolve(GOOD, apply=misspells_names), "qnorm"),
        (evolve(GOOD, apply=names_twice), "the same Hugging Face name"),
    ],
}


@pytest.mark.parametrize(
    ("name", "component", "says"),
    [(name, component, says) for name, mutants in MUTANTS.items() for component, says in mutants],
    ids=[f"{name} {number}" for name, mutants in MUTANTS.items() for number in range(len(mutants))],
)
def test_a_broken_component_is_caught_by_its_check(name, component, says):
    # A model is sharded only where that is what is looked at: it takes longest.
    failed, _ = outcomes(component, Options(eps=1e-5), without=() if name in SHARDED else SHARDED)
    assert list(failed) == [name]
    assert says in failed[name] and "'qk_norm'" in failed[name]
