"""The merge stage against a float64 sum of its own, and against what mergekit would do silently."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import frozen
from mergekit import merge_methods
from mergekit.merge_methods import registry
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, SmolLM3Config, SmolLM3ForCausalLM

from smolrecipe import StageContext, StageError, StageRef
from smolrecipe_mergekit import check, missing, run, smolrecipe_stages
from smolrecipe_mergekit import merge as engine
from smolrecipe_mergekit.merge import describe
from smolrecipe_mergekit.methods import METHODS
from smolrecipe_mergekit.options import MemberOptions, MergeOptions

FLOAT32 = torch.finfo(torch.float32).eps
WORDS = ("<pad>", "<eos>", "one", "two", "three", "four")


def publish(root: Path, stage: str, seed: int, dtype: torch.dtype = torch.float32, **changes: object) -> StageRef:
    """Publish a small random SmolLM3 with tokenizer, chat template and generation settings as stage ``stage``."""
    torch.manual_seed(seed)
    settings = {
        "vocab_size": 16,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": None,
    }
    folder = root / stage / "model"
    SmolLM3ForCausalLM(SmolLM3Config(**{**settings, **changes})).to(dtype).save_pretrained(folder)
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token="<pad>")), pad_token="<pad>", eos_token="<eos>"
    )
    tokenizer.chat_template = f"{{# {stage} #}}{{{{ messages[0].content }}}}"
    tokenizer.save_pretrained(folder)
    return StageRef(stage)


def context(root: Path, *stages: str, said: list[str] | None = None) -> StageContext:
    folder = root / "merge.partial"
    folder.mkdir(exist_ok=True)
    return StageContext(
        recipe="test",
        stage="merge",
        folder=folder,
        inputs={stage: root / stage for stage in stages},
        report=lambda event: said.append(str(event["message"])) if said is not None else None,
    )


def linear(members: dict[str, float], base: str, **more: object) -> MergeOptions:
    return MergeOptions(
        models=[MemberOptions(from_=StageRef.parse(name), weight=weight) for name, weight in members.items()],
        base=StageRef(base),
        **more,
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


@frozen
class Sum:
    """A weighted sum in float64, and how far its terms reach: a float32 sum errs by a few units of those."""

    value: torch.Tensor
    reach: torch.Tensor

    def admits(self, tensor: torch.Tensor) -> bool:
        """Whether ``tensor`` is the sum, made in float32 and rounded once to its own dtype."""
        kind = torch.finfo(tensor.dtype)
        rounding = self.value.abs().clamp(min=kind.smallest_normal) * kind.eps / 2
        return bool(((tensor.double() - self.value).abs() <= rounding + 4 * FLOAT32 * self.reach).all())


def weighted_sum(members: Mapping[str, float], folders: Mapping[str, Path]) -> dict[str, Sum]:
    sums = {}
    loaded = {name: weights(folder) for name, folder in folders.items()}
    for key in next(iter(loaded.values())):
        terms = torch.stack([weight * loaded[name][key].double() for name, weight in members.items()])
        sums[key] = Sum(terms.sum(0), terms.abs().sum(0))
    return sums


def never(*arguments: object) -> None:
    """Stands in for mergekit where a merge must have been refused before it starts."""
    raise AssertionError("the merge was started")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_linear_merge_is_the_weighted_sum_and_swapped_weights_are_not(tmp_path: Path, dtype: torch.dtype) -> None:
    for seed, stage in enumerate(("soup", "mid")):
        publish(tmp_path, stage, seed, dtype)
    members = {"soup": 0.9, "mid": 0.1}
    artifact = run(linear(members, base="mid"), context(tmp_path, *members))
    merged = weights(tmp_path / "merge.partial")
    folders = {name: tmp_path / name for name in members}
    exact = weighted_sum(members, folders)
    swapped = weighted_sum({"soup": 0.1, "mid": 0.9}, folders)
    assert merged.keys() == exact.keys()
    for key, tensor in merged.items():
        assert tensor.dtype == dtype
        assert exact[key].admits(tensor), key
        norm = "norm" in key  # all ones at the start, in both
        assert norm or not swapped[key].admits(tensor), key
    assert artifact.summary["weights"] == members
    assert artifact.summary["parameters"] == sum(tensor.numel() for tensor in merged.values())


def test_a_model_that_is_also_the_base_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, stage in enumerate(("one", "two")):
        publish(tmp_path, stage, seed)
    read, names = engine.read, []
    monkeypatch.setattr(engine, "read", lambda name, folder: (names.append(name), read(name, folder))[1])
    run(linear({"one": 0.5, "two": 0.5}, base="one"), context(tmp_path, "one", "two"))
    assert names == ["one", "two"]


def test_the_members_files_are_let_go_before_the_result_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, stage in enumerate(("one", "two")):
        publish(tmp_path, stage, seed)
    verify, mapped = engine._verify, []

    def looked_at(*arguments: Any) -> int:
        mapped.extend(line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines())
        return verify(*arguments)

    monkeypatch.setattr(engine, "_verify", looked_at)
    run(linear({"one": 0.5, "two": 0.5}, base="one"), context(tmp_path, "one", "two"))
    assert mapped and not [path for path in mapped if path.startswith(str(tmp_path))]


def test_the_result_has_the_base_s_configuration_tokenizer_and_template(tmp_path: Path) -> None:
    """The base need not be one of the merged models."""
    publish(tmp_path, "a", 0)
    publish(tmp_path, "b", 1)
    publish(tmp_path, "style", 2, max_position_embeddings=128)
    folder = tmp_path / "merge.partial"
    (folder / "model").mkdir(parents=True)
    stale = folder / "model" / "model-00001-of-00002.safetensors"
    save_file({"stale": torch.zeros(1)}, stale)
    run(linear({"a": 0.5, "b": 0.5}, base="style", out_dtype="bfloat16"), context(tmp_path, "a", "b", "style"))
    assert not stale.exists()
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype="auto")
    assert model.dtype == torch.bfloat16
    assert model.config.max_position_embeddings == 128
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert AutoTokenizer.from_pretrained(folder / "model").chat_template.startswith("{# style #}")
    exact = weighted_sum({"a": 0.5, "b": 0.5}, {name: tmp_path / name for name in "ab"})
    assert all(exact[key].admits(tensor) for key, tensor in weights(folder).items())
    assert {path.name for path in (folder / "model").iterdir()} == {
        path.name for path in (tmp_path / "style" / "model").iterdir()
    }


def test_checkpoints_of_one_stage_and_odd_paths_can_be_merged(tmp_path: Path) -> None:
    """mergekit reads '@' in a path as a revision and '+' as a LoRA."""
    root = tmp_path / "a@b+c"
    publish(root, "apo", 0)
    publish(root / "apo" / "checkpoints", "0.5", 1)
    members = {"apo": 0.25, "apo@0.5": 0.75}
    run(linear(members, base="apo"), context(root, "apo"))
    exact = weighted_sum(members, {"apo": root / "apo", "apo@0.5": root / "apo" / "checkpoints" / "0.5"})
    assert all(exact[key].admits(tensor) for key, tensor in weights(root / "merge.partial").items())


def test_task_arithmetic_adds_the_difference_to_the_base(tmp_path: Path) -> None:
    for seed, stage in enumerate(("base", "a", "b")):
        publish(tmp_path, stage, seed)
    options = MergeOptions(
        method="task_arithmetic",
        models=[MemberOptions(from_=StageRef("a"), weight=0.5), MemberOptions(from_=StageRef("b"), weight=0.25)],
        base=StageRef("base"),
    )
    assert not list(check(options))
    run(options, context(tmp_path, "base", "a", "b"))
    shares = {"base": 0.25, "a": 0.5, "b": 0.25}
    exact = weighted_sum(shares, {name: tmp_path / name for name in shares})
    assert all(exact[key].admits(tensor) for key, tensor in weights(tmp_path / "merge.partial").items())


def test_a_parameter_can_differ_by_part_and_by_depth(tmp_path: Path) -> None:
    """slerp at t=0 is the base and at t=1 the other model; a list is interpolated over the layers."""
    for seed, stage in enumerate(("a", "b")):
        publish(tmp_path, stage, seed)
    options = MergeOptions(
        method="slerp",
        models=[MemberOptions(from_=StageRef("a")), MemberOptions(from_=StageRef("b"))],
        base=StageRef("a"),
        parameters={"t": {"mlp": 1.0, "*": 0.0}},
    )
    assert not list(check(options))
    run(options, context(tmp_path, "a", "b"))
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    for key, tensor in weights(tmp_path / "merge.partial").items():
        torch.testing.assert_close(tensor, b[key] if "mlp" in key else a[key], atol=1e-6, rtol=0)


def test_weights_that_do_not_sum_to_one_are_reported(tmp_path: Path) -> None:
    for seed, stage in enumerate(("a", "b")):
        publish(tmp_path, stage, seed)
    said: list[str] = []
    run(linear({"a": 0.5, "b": 0.4}, base="a", normalize=False), context(tmp_path, "a", "b", said=said))
    assert any("sum to 0.9: the result is scaled by it" in line for line in said)
    norm = weights(tmp_path / "merge.partial")["model.norm.weight"]
    torch.testing.assert_close(norm, torch.full_like(norm, 0.9), atol=FLOAT32, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 3}, r"'b' and 'a' have different numbers of layers \(num_hidden_layers 3 and 4\)"),
        ({"tie_word_embeddings": False}, "do not both tie their embeddings"),
        ({"intermediate_size": 24}, "differ in their configuration.*intermediate_size 24 and 32"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 2e6}}, "rope_parameters.*2000000.0.* and .*10000"),
        ({"no_rope_layers": [1, 1, 1, 1]}, "no_rope_layers"),
        ({"dtype": torch.bfloat16}, r"different dtypes \('a' float32, 'b' bfloat16\): say 'out_dtype'"),
    ],
)
def test_models_that_cannot_be_merged_are_refused(
    tmp_path: Path, changes: dict, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "run_merge", never)
    publish(tmp_path, "a", 0)
    publish(tmp_path, "b", 1, **changes)
    with pytest.raises(StageError, match=message):
        run(linear({"a": 0.5, "b": 0.5}, base="b"), context(tmp_path, "a", "b"))


@pytest.mark.parametrize(
    ("first", "second", "out"),
    [
        (torch.float32, torch.bfloat16, "bfloat16"),
        (torch.bfloat16, torch.float32, "float32"),
        (torch.bfloat16, torch.bfloat16, "float32"),
        (torch.bfloat16, torch.bfloat16, "float16"),
        (torch.float16, torch.bfloat16, "float32"),
    ],
)
def test_other_dtypes_are_rounded_once_to_the_result_s(
    tmp_path: Path, first: torch.dtype, second: torch.dtype, out: str
) -> None:
    """mergekit alone rounds to the first model's dtype before."""
    publish(tmp_path, "a", 0, dtype=first)
    publish(tmp_path, "b", 1, dtype=second)
    members = {"a": 0.3, "b": 0.7}
    run(linear(members, base="a", out_dtype=out), context(tmp_path, "a", "b"))
    exact = weighted_sum(members, {name: tmp_path / name for name in members})
    merged = weights(tmp_path / "merge.partial")
    assert all(exact[key].admits(tensor) for key, tensor in merged.items())
    assert {tensor.dtype for tensor in merged.values()} == {getattr(torch, out)}


def test_different_vocabularies_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "run_merge", never)
    publish(tmp_path, "a", 0)
    publish(tmp_path, "b", 1)
    file = tmp_path / "b" / "model" / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["one"], vocabulary["two"] = vocabulary["two"], vocabulary["one"]
    file.write_text(json.dumps(content))
    with pytest.raises(StageError, match=r"'a' and 'b' give 2 tokens different numbers .*'one'"):
        run(linear({"a": 0.5, "b": 0.5}, base="a"), context(tmp_path, "a", "b"))


def test_a_model_that_is_not_finite_is_found_after_the_merge(tmp_path: Path) -> None:
    publish(tmp_path, "a", 0)
    publish(tmp_path, "b", 1)
    tensors = weights(tmp_path / "b")
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, tmp_path / "b" / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StageError, match=r"layers\.1\.mlp\.up_proj\.weight has values that are not finite"):
        run(linear({"a": 0.5, "b": 0.5}, base="a"), context(tmp_path, "a", "b"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (linear({"a": 0.0, "b": 0.0}, base="a"), "every weight is 0"),
        (linear({"a": 1.0, "b": -1.0}, base="a"), "sum to 0, and the merge divides by their sum"),
        (linear({"a": 1.0}, base="a"), "at least two models, not 1: a"),
        (linear({"a": 1.0, "b": 1.0}, base="a", method="liner"), "'liner'; did you mean 'linear'?"),
        (linear({"a": 1.0, "b": 1.0}, base="a", parameters={"normalise": True}), "'normalise'; did you mean 'normal"),
        (linear({"a": 1.0, "b": 1.0}, base="a", method="karcher"), "method 'karcher' has no parameter 'weight', given"),
        (linear({"a": 1.0, "b": 1.0}, base="a", method="karcher", normalize=True), "'karcher' has no 'normalize'"),
        (linear({"a": 1.0, "b": 1.0}, base="a", method="ties"), "'weight' of 'a' has no effect: it is the base"),
        (linear({"b": 1.0, "c": 1.0}, base="a", method="slerp"), "exactly 2 models, the base included, not 3: a, b, c"),
        (linear({"b": 1.0}, base="a", method="slerp"), "method 'slerp' needs 't' under 'parameters'"),
        (
            MergeOptions(models=[MemberOptions(from_=StageRef(name)) for name in "ab"], base=StageRef("a")),
            "method 'linear' needs 'weight' for 'b'",
        ),
        (
            MergeOptions(
                models=[MemberOptions(from_=StageRef(name), parameters={"weight": 1, "densty": 1}) for name in "bc"],
                base=StageRef("a"),
                method="ties",
            ),
            "no parameter 'densty', given for 'b'; did you mean 'density'?",
        ),
        (
            MergeOptions(
                models=[MemberOptions(from_=StageRef(name), weight=1, parameters={"normalize": 1}) for name in "ab"],
                base=StageRef("a"),
            ),
            "'normalize' of 'a': 'linear' takes it for the whole merge",
        ),
    ],
)
def test_what_is_wrong_with_the_options_is_said_before_anything_runs(options: MergeOptions, message: str) -> None:
    assert any(message in problem for problem in check(options)), list(check(options))


def test_one_stage_named_twice_is_a_problem() -> None:
    options = MergeOptions(
        models=[MemberOptions(from_=StageRef("a"), weight=weight) for weight in (0.5, 0.5)], base=StageRef("a")
    )
    assert any("'models' names 'a' 2 times" in problem for problem in check(options))


def test_a_module_that_is_not_installed_is_missing() -> None:
    options = linear({"a": 1.0, "b": 1.0}, base="a", method="mine", defined_in="no_such_package.merging")
    assert not list(check(options))
    assert list(missing(options)) == [
        "'defined_in' names the Python module 'no_such_package.merging', which is not installed"
    ]


def test_the_table_of_methods_is_mergekit_s() -> None:
    registered = {method.spec.name: describe(method.spec) for method in merge_methods.registered_methods()}
    assert dict(METHODS) == registered


def test_a_method_of_one_s_own_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_merging.py").write_text(
        "import torch\n"
        "from mergekit.merge_methods import TensorBatch, merge_method, register\n"
        "@merge_method(name='largest')\n"
        "def largest(batch: TensorBatch) -> torch.Tensor:\n"
        "    return torch.stack(batch.tensors).amax(0)\n"
        "register(largest)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))  # what is registered cannot be taken back
    for seed, stage in enumerate(("a", "b")):
        publish(tmp_path, stage, seed)
    members = [MemberOptions(from_=StageRef("a")), MemberOptions(from_=StageRef("b"))]
    options = MergeOptions(method="largest", models=members, base=StageRef("a"), defined_in="my_merging")
    assert not [*check(options), *missing(options)]
    run(options, context(tmp_path, "a", "b"))
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    for key, tensor in weights(tmp_path / "merge.partial").items():
        torch.testing.assert_close(tensor, torch.maximum(a[key], b[key]), atol=0, rtol=0)


def test_the_stage_is_offered() -> None:
    (kind,) = smolrecipe_stages()
    assert kind.name == "merge"
    assert kind.produces(None) == {"hf-model": True}
