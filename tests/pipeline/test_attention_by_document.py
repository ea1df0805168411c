"""On a CPU documents attend one by one, wherever every layer can; else under the dense mask, to the same result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve

from smolrecipe import Model, Use
from smolrecipe.planning.make import make_plan
from smolrecipe.recipe.compose import compose
from smolrecipe.recipe.structure import structure
from smolrecipe_docmask import documentwise
from smolrecipe_docmask.dense import DenseDocumentAttention
from smolrecipe_docmask.documentwise import DocumentwiseAttention
from smolrecipe_registry.discovery import load_registry
from smolrecipe_torchtitan import PretrainOptions
from smolrecipe_torchtitan.proofs.cpu_model import draft_on_cpu

LENGTHS = ([20, 1, 30, 13], [64])
POSITIONS = torch.stack([torch.cat([torch.arange(length) for length in row]) for row in LENGTHS])
TOKENS = torch.randint(256, (2, 64), generator=torch.Generator().manual_seed(0))
SMALL = {"num_layers": 4, "hidden_size": 64, "head_dim": 16, "intermediate_size": 96, "vocab_size": 256}


@pytest.fixture(scope="module")
def model() -> Model:
    """SmolLM3's components with smaller matrices."""
    registry = load_registry()
    path = Path(__file__).parents[2] / "recipes" / "smollm3.yaml"
    plan = make_plan(structure(compose(path), path, registry.catalog), registry.catalog, registry.manager.hook)
    options = plan.by_name["pretrain-1"].use.options
    assert isinstance(options, PretrainOptions)
    uses = dict(options.model.components)
    uses["decoder"] = Use(uses["decoder"].component, evolve(uses["decoder"].options, **SMALL))
    uses["attention"] = Use(uses["attention"].component, evolve(uses["attention"].options, head_dim=16))
    return Model(uses)


@pytest.fixture(autouse=True)
def long_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of 64 tokens count as long."""
    monkeypatch.setattr(documentwise, "LONGEST_MASKED", 63)


@pytest.fixture
def decoder(model: Model) -> Any:
    decoder = draft_on_cpu(model, 64).decoder.build()
    decoder.init_states()
    return decoder


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What every layer is given, in order."""
    given: list[Any] = []
    forward = DocumentwiseAttention.forward

    def recorded(self: Any, *inputs: Any, attention_masks: Any, **kwargs: Any) -> torch.Tensor:
        given.append(attention_masks)
        return forward(self, *inputs, attention_masks=attention_masks, **kwargs)

    monkeypatch.setattr(DocumentwiseAttention, "forward", recorded)
    return given


def test_layers_get_lengths_and_the_result_is_that_of_the_mask(decoder: Any, taken: list[Any]) -> None:
    ours = decoder(TOKENS, POSITIONS)
    assert taken == [(20, 1, 30, 13, 64)] * 4
    theirs = decoder(TOKENS, POSITIONS, DenseDocumentAttention.build_mask(POSITIONS))
    # float32 sums in another order, through four layers, of logits around 1.
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_one_layer_that_takes_no_lengths_has_all_take_the_mask(decoder: Any, taken: list[Any]) -> None:
    decoder.layers["1"].attention.inner_attention = DenseDocumentAttention.Config().build()
    decoder(TOKENS, POSITIONS)
    assert len(taken) == 3
    assert all(torch.equal(given, DenseDocumentAttention.build_mask(POSITIONS)) for given in taken)


def test_compiled_layers_take_the_mask(decoder: Any, taken: list[Any]) -> None:
    for layer in decoder.layers.values():
        layer.compile(backend="eager", fullgraph=True)
    decoder(TOKENS, POSITIONS)
    assert taken and all(isinstance(given, torch.Tensor) for given in taken)


def test_short_rows_take_the_mask(decoder: Any, taken: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documentwise, "LONGEST_MASKED", 64)
    decoder(TOKENS, POSITIONS)
    assert all(torch.equal(given, DenseDocumentAttention.build_mask(POSITIONS)) for given in taken)
