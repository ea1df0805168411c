"""The checks of an optimizer's groups, and the names of SmolLM3's parameters that they are held to."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from smolrecipe import NoOptions, Optimizer, ParameterGroup
from smolrecipe.testing.contract import ContractError
from smolrecipe.testing.optimizers import checks
from smolrecipe.testing.parameters import names

NO_DECAY = "tok_embeddings|embed_tokens|lm_head"


def optimizer_of(groups: Callable[[], Sequence[ParameterGroup]]) -> Optimizer:
    return Optimizer(
        name="tried",
        summary="an optimizer",
        source="here",
        factory=lambda options: torch.optim.SGD,
        groups=lambda options: groups(),
    )


def reports(component: Optimizer) -> dict[str, str]:
    """The checks that fail, in their order, with what they say."""
    found = {}
    for check in checks(component, NoOptions()):
        try:
            check.run()
        except ContractError as error:
            found[check.name] = str(error)
    return found


def test_the_names_are_those_of_transformers_smollm3() -> None:
    from transformers import SmolLM3Config, SmolLM3ForCausalLM

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1}
    for tied in (False, True):
        config = SmolLM3Config(num_hidden_layers=36, vocab_size=8, pad_token_id=0, tie_word_embeddings=tied, **sizes)
        with torch.device("meta"):
            model = SmolLM3ForCausalLM(config)
        without = {"lm_head.weight"} if tied else set()
        assert {name for name, _ in model.named_parameters()} == set(names().values()) - without


def test_the_names_are_those_of_torchtitans_decoder() -> None:
    from smolrecipe_torchtitan.decoder import HF_PARAMETERS

    layers = range(36)
    theirs = {titan.format(i): face.format(i) for titan, face in HF_PARAMETERS.items() for i in layers}
    assert names() == theirs


def groups_of(*groups: tuple[str, dict[str, Any]]) -> Callable[[], list[ParameterGroup]]:
    return lambda: [ParameterGroup(pattern=pattern, settings=settings) for pattern, settings in groups]


COUNTED = itertools.count()
DECAYED, PLAIN = {"lr": 0.01, "weight_decay": 0.1}, {"lr": 0.01, "weight_decay": 0.0}


@pytest.mark.parametrize(
    ("groups", "caught_by", "says"),
    [
        (groups_of((".*", {"weight_decay": 0.1})), "its groups have patterns and rates", "'.*' of optimizer 'tried'"),
        (
            lambda: [ParameterGroup(pattern=".*", settings=PLAIN | {"momentum": 0.9 - next(COUNTED) / 1000})],
            "its groups have patterns and rates",
            "differ each time",
        ),
        (
            groups_of(("^tok_embeddings", PLAIN), (r"^(norm|lm_head|layers\.)", DECAYED), (r"^model\.", DECAYED)),
            "both engines' names mean the same settings",
            "'model.embed_tokens.weight'",
        ),
        (
            groups_of((NO_DECAY, PLAIN), (r"^(model\.)?(norm|layers\.\d\.)", DECAYED)),
            "every SmolLM3 parameter has a group",
            "layers.10.attention_norm.weight",
        ),
        (
            groups_of((NO_DECAY, PLAIN), (r"^(norm|layers\.)", DECAYED)),
            "every SmolLM3 parameter has a group",
            "by Hugging Face's names, such as 'model.norm.weight'",
        ),
    ],
)
def test_exactly_one_check_catches_groups(groups: Any, caught_by: str, says: str) -> None:
    found = reports(optimizer_of(groups))
    assert list(found) == [caught_by]
    assert says in found[caught_by]


@pytest.mark.parametrize(
    ("groups", "says"),
    [
        (list, "returns []"),
        (groups_of((".*", PLAIN | {"lr": math.nan})), "nan"),
        (groups_of((".*", PLAIN | {"lr": 0.0})), "a number above 0"),
        (groups_of((".*", PLAIN | {"lr": "1e-3"})), "'1e-3'"),
        (lambda: [{"pattern": ".*", "lr": 0.1}], "ParameterGroup is meant"),
        (groups_of(("(", PLAIN)), "not a regular expression"),
    ],
)
def test_what_are_no_groups_is_caught_first(groups: Any, says: str) -> None:
    """Nothing can be built from them, so the first check says why."""
    first = next(iter(checks(optimizer_of(groups), NoOptions())))
    with pytest.raises(ContractError, match="tried") as caught:
        first.run()
    assert says in str(caught.value)
