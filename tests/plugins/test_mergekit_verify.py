"""What ``verify`` says of a merge: that a true one holds, and which tensor is wrong in one that is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, SmolLM3Config, SmolLM3ForCausalLM

from smolrecipe import Proof, StageContext, StageRef
from smolrecipe_mergekit import run, smolrecipe_stages
from smolrecipe_mergekit.options import MemberOptions, MergeOptions
from smolrecipe_mergekit.proofs import linear_shares

(MERGE,) = smolrecipe_stages()
LAYER = "model.layers.1.mlp.up_proj.weight"
NAMES_AND_SHAPES = "tensors have the base's names and shapes"
FINITE = "all values are finite"
SUM = "weights are 0.9 soup + 0.1 mid"
FILES = "config and tokenizer are those of 'soup'"


def publish(root: Path, stage: str, seed: int, dtype: torch.dtype = torch.bfloat16) -> None:
    """Publish a small SmolLM3 with random weights, norms included, as stage ``stage``."""
    torch.manual_seed(seed)
    config = SmolLM3Config(
        vocab_size=16,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    model = SmolLM3ForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.to(dtype).save_pretrained(root / stage / "model")
    words = Tokenizer(WordLevel({"<pad>": 0, "<eos>": 1, "one": 2}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
    tokenizer.chat_template = f"{{# {stage} #}}{{{{ messages[0].content }}}}"
    tokenizer.save_pretrained(root / stage / "model")


def context(root: Path, folder: Path) -> StageContext:
    inputs = {path.name: path for path in root.iterdir() if path.is_dir()}
    return StageContext(recipe="r", stage="merge", folder=folder, inputs=inputs)


def linear(members: Mapping[str, float], base: str = "soup", **more: Any) -> MergeOptions:
    models = [MemberOptions(from_=StageRef.parse(name), weight=weight) for name, weight in members.items()]
    return MergeOptions(models=models, base=StageRef(base), **more)


MEMBERS = {"soup": 0.9, "mid": 0.1}


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stages")
    for seed, stage in enumerate(("soup", "mid", "other")):
        publish(root, stage, seed)
    return root


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory, members: Path) -> Path:
    folder = tmp_path_factory.mktemp("merge")
    run(linear(MEMBERS), context(members, folder))
    return folder


@pytest.fixture
def copy(tmp_path: Path, merged: Path) -> Path:
    shutil.copytree(merged, tmp_path / "merge")
    return tmp_path / "merge"


def proofs(options: MergeOptions, members: Path, folder: Path) -> dict[str, Proof]:
    found = list(MERGE.verify(options, context(members, folder)))
    assert len({proof.claim for proof in found}) == len(found)
    return {proof.claim: proof for proof in found}


def failing(found: Mapping[str, Proof]) -> dict[str, str]:
    return {claim: proof.note for claim, proof in found.items() if not proof.holds}


def test_a_true_merge_holds(members: Path, merged: Path) -> None:
    found = proofs(linear(MEMBERS), members, merged)
    assert set(found) == {NAMES_AND_SHAPES, FINITE, "weights and config are bfloat16", FILES, SUM}
    assert not failing(found)


@pytest.mark.parametrize("out_dtype", ["float32", "float16", "bfloat16"])
def test_a_merge_made_without_mergekit_holds(members: Path, merged: Path, tmp_path: Path, out_dtype: Any) -> None:
    """The float64 sum rounded once is right in any dtype, as is what mergekit makes of it."""
    folder = tmp_path / "merge"
    shutil.copytree(merged, folder)
    loaded = [load_file(members / name / "model" / "model.safetensors") for name in MEMBERS]
    dtype = getattr(torch, out_dtype)
    tensors = {key: (0.9 * loaded[0][key].double() + 0.1 * loaded[1][key].double()).to(dtype) for key in loaded[0]}
    save_file(tensors, folder / "model" / "model.safetensors", metadata={"format": "pt"})
    edit_config(folder, dtype=out_dtype)
    found = proofs(linear(MEMBERS, out_dtype=out_dtype), members, folder)
    assert not failing(found)
    run(linear(MEMBERS, out_dtype=out_dtype), context(members, tmp_path / "merge"))
    assert not failing(proofs(linear(MEMBERS, out_dtype=out_dtype), members, folder))


def test_swapped_weights_are_found(members: Path, merged: Path) -> None:
    wrong = failing(proofs(linear({"soup": 0.1, "mid": 0.9}), members, merged))
    assert list(wrong) == ["weights are 0.1 soup + 0.9 mid"]
    assert wrong["weights are 0.1 soup + 0.9 mid"].startswith("38 tensors are other sums; ")


def test_a_weight_a_hundredth_off_is_found(members: Path, merged: Path) -> None:
    assert list(failing(proofs(linear({"soup": 0.89, "mid": 0.11}), members, merged)))


def edit_tensors(folder: Path, **changes: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
    file = folder / "model" / "model.safetensors"
    tensors = load_file(file)
    for key, change in changes.items():
        changed = change(tensors.pop(key))
        if changed is not None:
            tensors[key] = changed
    save_file(tensors, file, metadata={"format": "pt"})


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "model" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def with_value(place: tuple[int, int], factor: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        changed = tensor.clone()
        changed[place] = changed[place] * factor
        return changed

    return change


DAMAGES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    # The next bfloat16 but one: a value's last two of eight binary places.
    "one value off by two in its last place": (
        lambda folder: edit_tensors(folder, **{LAYER: with_value((3, 5), 1 + 2 * 2**-7)}),
        SUM,
        f"1 tensors are other sums; {LAYER} is ",
    ),
    "a value that is no number": (
        lambda folder: edit_tensors(folder, **{LAYER: with_value((0, 0), float("nan"))}),
        FINITE,
        LAYER,
    ),
    "a tensor left out": (lambda folder: edit_tensors(folder, **{LAYER: lambda tensor: None}), NAMES_AND_SHAPES, LAYER),
    "a tensor of another shape": (
        lambda folder: edit_tensors(folder, **{LAYER: lambda tensor: tensor[:-1].clone()}),
        NAMES_AND_SHAPES,
        LAYER,
    ),
    "a tensor of another dtype": (
        lambda folder: edit_tensors(folder, **{LAYER: lambda tensor: tensor.float()}),
        "weights and config are bfloat16",
        f"{LAYER} torch.float32",
    ),
    "another model's configuration": (
        lambda folder: edit_config(folder, max_position_embeddings=128),
        FILES,
        "config.json: max_position_embeddings",
    ),
    "another model's template": (
        lambda folder: (folder / "model" / "chat_template.jinja").write_text("{{ messages }}"),
        FILES,
        "chat_template.jinja",
    ),
    "a tokenizer that is not there": (
        lambda folder: (folder / "model" / "tokenizer.json").unlink(),
        FILES,
        "tokenizer.json is only in soup",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_and_its_place_named(members: Path, copy: Path, damage: str) -> None:
    plant, claim, place = DAMAGES[damage]
    plant(copy)
    wrong = failing(proofs(linear(MEMBERS), members, copy))
    assert claim in wrong, wrong
    assert place in wrong[claim]


def test_one_merge_of_all_is_right_where_a_soup_and_then_a_merge_are_not(members: Path, tmp_path: Path) -> None:
    """SmolLM3's soup of two checkpoints and its partner, in one pass: rounded once to bfloat16, not twice."""
    parts = {"soup": 0.45, "other": 0.45, "mid": 0.1}
    claim = "weights are 0.45 soup + 0.45 other + 0.1 mid"
    run(linear(parts), context(members, tmp_path / "once"))
    once = proofs(linear(parts), members, tmp_path / "once")
    assert not failing(once) and claim in once
    stages = tmp_path / "stages"
    shutil.copytree(members, stages)
    run(linear({"soup": 0.5, "other": 0.5}), context(members, stages / "soup-of-two"))
    run(linear({"soup-of-two": 0.9, "mid": 0.1}, base="soup"), context(stages, tmp_path / "twice"))
    assert list(failing(proofs(linear(parts), stages, tmp_path / "twice"))) == [claim]
    # As a merge of what the soup was rounded to, the second merge is right.
    assert not failing(proofs(linear({"soup-of-two": 0.9, "mid": 0.1}, base="soup"), stages, tmp_path / "twice"))


def test_large_tensors_are_compared_in_parts(
    members: Path, merged: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smolrecipe_mergekit.proofs._MOST_ELEMENTS", 40)
    assert not failing(proofs(linear(MEMBERS), members, merged))
    edit_tensors(copy, **{LAYER: with_value((31, 15), 1.1)})
    assert LAYER in failing(proofs(linear(MEMBERS), members, copy))[SUM]


@pytest.mark.parametrize(
    ("changes", "shares"),
    [
        ({}, {"soup": 0.5, "mid": 0.5}),
        ({"normalize": False}, {"soup": 2.0, "mid": 2.0}),
        ({"parameters": {"normalize": False}}, {"soup": 2.0, "mid": 2.0}),
    ],
)
def test_shares_are_normalised_as_asked(changes: dict[str, Any], shares: dict[str, float]) -> None:
    assert linear_shares(linear({"soup": 2.0, "mid": 2.0}, **changes)) == shares


def test_unnormalised_weights_hold_as_they_are(members: Path, tmp_path: Path) -> None:
    options = linear({"soup": 0.5, "mid": 0.4}, normalize=False)
    run(options, context(members, tmp_path / "merge"))
    assert not failing(proofs(options, members, tmp_path / "merge"))
    assert failing(proofs(linear({"soup": 0.5, "mid": 0.4}), members, tmp_path / "merge"))


def test_of_other_methods_no_more_is_claimed_than_is_known(members: Path, tmp_path: Path) -> None:
    options = MergeOptions(
        method="slerp",
        models=[MemberOptions(from_=StageRef("soup")), MemberOptions(from_=StageRef("mid"))],
        base=StageRef("soup"),
        parameters={"t": 0.5},
    )
    run(options, context(members, tmp_path / "merge"))
    found = proofs(options, members, tmp_path / "merge")
    assert not failing(found)
    assert not any(claim.startswith("weights are") for claim in found)
    by_layer = linear(MEMBERS, parameters={})
    members_by_layer = [
        MemberOptions(from_=StageRef("soup"), parameters={"weight": [0.1, 0.9]}),
        MemberOptions(from_=StageRef("mid"), weight=0.5),
    ]
    assert linear_shares(MergeOptions(models=members_by_layer, base=by_layer.base)) is None
