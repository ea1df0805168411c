"""Steps, order and options of the TRL stages: what is known without an engine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import numpy
import pytest
from trl_rows import preference_options, rows_of, sft_options

from smolrecipe import ParameterGroup, StageError
from smolrecipe_trl import Parallelism, PreferenceOptions, SftOptions, smolrecipe_stages
from smolrecipe_trl.chat_templates import BUILT_IN, marks_assistant, template_text
from smolrecipe_trl.held_out import batches
from smolrecipe_trl.sample_order import Steps, accumulation, plan_steps, row_order
from smolrecipe_trl.trainer_parts import parameter_groups


def test_steps_follow_from_epochs_and_batch() -> None:
    assert plan_steps(100, sft_options(max_steps=7, global_batch=8)) == Steps(7, 7)
    assert plan_steps(100, sft_options(max_steps=None, epochs=5.0, global_batch=8)) == Steps(63, 63)
    stopped = sft_options(max_steps=None, epochs=5.0, stop_after=4.0, global_batch=8)
    assert plan_steps(100, stopped) == Steps(50, 63)
    # 5 epochs of SmolLM3's SFT: 29,696 packed rows in steps of 128, ended after step 928 of 1160
    assert plan_steps(232 * 128, attrs.evolve(stopped, global_batch=128)) == Steps(928, 1160)


def test_every_pass_is_a_permutation_and_the_order_has_a_prefix_property() -> None:
    order = row_order(10, 35, seed=3)
    assert all(sorted(order[start : start + 10]) == list(range(10)) for start in (0, 10, 20))
    assert not numpy.array_equal(order[:10], order[10:20])
    assert numpy.array_equal(row_order(10, 12, seed=3), order[:12])
    assert not numpy.array_equal(row_order(10, 35, seed=4), order)


def test_processes_share_a_step_evenly_or_not_at_all() -> None:
    assert accumulation(sft_options(global_batch=8, micro_batch=2), 2) == 2
    with pytest.raises(StageError, match=r"8 rows .* cannot be shared evenly by 3 process"):
        accumulation(sft_options(global_batch=8), 3)


def test_parameters_go_to_the_first_group_that_matches() -> None:
    torch = pytest.importorskip("torch")
    names = ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "model.norm.weight"]
    parameters = {name: torch.nn.Parameter(torch.zeros(1)) for name in names}
    groups = [
        ParameterGroup(pattern="embed_tokens|lm_head", settings={"lr": 1.0, "weight_decay": 0.0}),
        ParameterGroup(pattern="unused", settings={"lr": 3.0}),
        ParameterGroup(pattern="weight", settings={"lr": 1.0, "weight_decay": 0.1}),
    ]
    made = parameter_groups(parameters.items(), groups, "adamw")
    assert [group["weight_decay"] for group in made] == [0.0, 0.1]
    assert [id(parameter) for group in made for parameter in group["params"]] == list(map(id, parameters.values()))
    with pytest.raises(StageError, match=r"'adamw' has no parameter group for model\.layers.*, model\.norm\.weight"):
        parameter_groups(parameters.items(), groups[:1], "adamw")


def test_batches_are_bounded_and_cover_all_rows() -> None:
    lengths = [5, 60, 7, 6, 200, 30]
    made = batches(lengths, most_tokens=64)
    assert sorted(row for batch in made for row in batch) == list(range(6))
    assert all(len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= 64 for batch in made)
    assert made[0] == [0, 3, 2]


# Options


def problems(options: SftOptions | PreferenceOptions) -> list[str]:
    name = "sft" if isinstance(options, SftOptions) else "preference"
    (kind,) = [kind for kind in smolrecipe_stages() if kind.name == name]
    return list(kind.check(options))


def test_good_options_have_no_problem(tmp_path: Path) -> None:
    template = tmp_path / "own.jinja"
    template.write_text("{% generation %}{{ messages[0].content }}{% endgeneration %}")
    assert problems(sft_options()) == [] and problems(preference_options(keep=(0.5,))) == []
    assert problems(sft_options(chat_template=template, global_batch=8, micro_batch=4)) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"epochs": 1.0}, "give 'epochs' or 'max_steps', one of the two"),
        ({"max_steps": None}, "give 'epochs' or 'max_steps', one of the two"),
        ({"stop_after": 1.0}, "'stop_after' counts epochs"),
        ({"max_steps": None, "epochs": 1.0, "stop_after": 2.0}, "'stop_after' is 2 epochs, more than the 1"),
        ({"global_batch": 6, "micro_batch": 4}, "make it a multiple of 4"),
        ({"data": {}}, "'data' names no source"),
        ({"data": {"t": rows_of(yields="text")}}, "'data.t': source 'rows' yields text rows"),
        ({"held_out": {"p": rows_of(yields="preference")}}, "'held_out.p'"),
        ({"chat_template": Path("/nowhere/smolm3")}, "there is no file /nowhere/smolm3; the built-in"),
        ({"chat_template": Path(pytest.__file__)}, "has no {% generation %} markers"),
        ({"parallelism": Parallelism(sharding="fsdp2")}, "fsdp2 runs on cuda only"),
        ({"attention": "flex"}, "flex has no backward pass on cpu"),
        ({"attention": "flash"}, "flash has no cpu kernel"),
    ],
)
def test_wrong_options_are_told_before_anything_runs(changes: dict[str, Any], sentence: str) -> None:
    assert any(sentence in problem for problem in problems(sft_options(**changes))), problems(sft_options(**changes))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"keep": (0.5, 1.0)}, "'keep' holds 1: a fraction of the run lies between 0 and 1"),
        ({"keep": (0.5, 0.5)}, "'keep' names a checkpoint twice"),
        ({"data": {"c": rows_of()}}, "yields chat rows with these options, not preference rows"),
    ],
)
def test_wrong_preference_options_are_told(changes: dict[str, Any], sentence: str) -> None:
    assert any(sentence in problem for problem in problems(preference_options(**changes)))


def test_stage_kinds_say_what_they_make_and_need() -> None:
    kinds = {kind.name: kind for kind in smolrecipe_stages()}
    assert kinds["sft"].produces(sft_options()) == {"hf-model": True}
    assert kinds["preference"].produces(preference_options(keep=(0.25, 0.5))) == {
        "hf-model": True,
        "hf-model@0.25": True,
        "hf-model@0.5": True,
    }
    devices = kinds["sft"].devices(sft_options(parallelism=Parallelism(device="cuda", processes=8)))
    assert (devices.device, devices.processes) == ("cuda", 8)
    assert all(marks_assistant(template_text(name)) for name in BUILT_IN)


def test_the_plugin_is_light() -> None:
    code = "import sys, smolrecipe_trl; print(sorted({'torch', 'trl', 'datasets', 'jinja2'} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
