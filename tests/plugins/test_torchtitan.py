"""Pretraining on torchtitan, in one process: learning, exporting, handing over from stage to stage."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from titan_toys import BATCH, LENGTH, PEAK, STEPS, TRAJECTORY, VOCABULARY, factor, losses, weights

pytest_plugins = ["titan_jobs"]
"""Where the fixtures come from; one training for all modules."""


def test_a_stage_learns_and_reports_every_step(alone: dict[str, Any]) -> None:
    first = alone["first"]
    assert [(event["step"], event["steps"]) for event in first["steps"]] == [(n, STEPS) for n in range(1, STEPS + 1)]
    assert all(
        set(event) == {"step", "steps", "loss", "grad_norm", "lr", "tokens_per_second"} for event in first["steps"]
    )
    assert first["before"] == pytest.approx(math.log(VOCABULARY), abs=0.1)
    assert first["after"] < first["before"] - 0.5
    assert first["summary"]["tokens"] == STEPS * BATCH * LENGTH
    assert first["summary"]["last_loss"] == losses(first)[-1]


def test_every_step_uses_the_rate_that_the_schedule_gives_for_it(alone: dict[str, Any]) -> None:
    expected = [PEAK * factor(None, step, TRAJECTORY) for step in range(1, STEPS + 1)]
    assert [event["lr"] for event in alone["first"]["steps"]] == expected
    assert [step["lr"] for step in alone["first"]["used"]] == [[rate, rate] for rate in expected]
    assert {tuple(step["weight_decay"]) for step in alone["first"]["used"]} == {(0.0, 0.1)}


def test_the_export_is_the_model_that_transformers_computes(alone: dict[str, Any]) -> None:
    compared = alone["transformers"]
    assert compared["class"] == "SmolLM3ForCausalLM"
    # Both compute in float32; the sums of 32 to 64 products may be taken in another order.
    assert compared["logits differ by"] < 1e-5
    assert compared["held-out loss"] == pytest.approx(alone["first"]["after"], abs=1e-5)
    assert compared["generated"] == 7
    assert compared["eos"] == [1, 1, 1]


def test_an_export_says_what_its_components_say(alone: dict[str, Any], folder: Path) -> None:
    assert alone["transformers"]["longer"] == [5e4, 2 * LENGTH, "torch.bfloat16"]
    config = json.loads((folder / "first" / "model" / "config.json").read_text())
    assert config["no_rope_layers"] == [1, 1]
    assert (config["max_position_embeddings"], config["dtype"]) == (LENGTH, "float32")
    assert sorted(path.name for path in (folder / "first" / "model").iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_a_component_without_counterpart_means_no_export(alone: dict[str, Any], folder: Path) -> None:
    assert len(alone["private"]["steps"]) == 4
    assert not (folder / "private" / "model").exists()
    assert (folder / "private" / "checkpoints" / "step-4").is_dir()


def test_initial_weights(alone: dict[str, Any]) -> None:
    found = alone["initial"]
    for name in ("tok_embeddings", "lm_head", "wq", "wk", "wv", "w1", "w3"):
        assert found[name] == pytest.approx(0.02, rel=0.02), name
    for name in ("wo", "w2"):  # back into the residual stream of 8 layers
        assert found[name] == pytest.approx(0.02 / 4, rel=0.02), name
    assert found["norm"] == found["attention_norm"] == found["ffn_norm"] == 0.0


def test_the_first_token_of_a_document_is_no_label(alone: dict[str, Any]) -> None:
    assert alone["labels"] == [[1, -100, 9, 1, 5], [1, -100, 9, 1, -100]]


def test_the_training_loss_is_the_mean_over_labels_within_documents(alone: dict[str, Any]) -> None:
    """Micro-batches with other numbers of labels weigh by them: one mean over the whole global batch."""
    assert alone["first"]["steps"][0]["loss"] == pytest.approx(alone["first loss"], abs=1e-5)


def test_a_mask_is_built_once_per_forward_pass(alone: dict[str, Any]) -> None:
    masked = alone["masked"]
    # Two micro-batches in each of two steps, and one batch of held-out rows before and after.
    assert masked["masks"] == [[4, LENGTH]] * 6
    # The same model that sees the documents before its own learns something else.
    assert masked["after"] != pytest.approx(alone["first"]["after"], abs=1e-3)


def test_two_stages_on_one_trajectory_are_one_longer_stage(alone: dict[str, Any], folder: Path) -> None:
    both, second = alone["both"], alone["second"]
    assert weights(folder, "second") == weights(folder, "both")
    assert losses(second) == losses(both)[STEPS:]
    assert second["read"] == both["read"][STEPS * BATCH :]
    assert [event["step"] for event in second["steps"]] == list(range(1, STEPS + 1))
    assert second["summary"]["first_step"] == STEPS + 1
    assert second["before"] == alone["first"]["after"]


def test_carrying_everything_keeps_moments_and_not_the_other_stages_rates(alone: dict[str, Any]) -> None:
    used = alone["other rates"]["used"]
    assert [step["steps_before"] for step in used] == [STEPS, STEPS + 1]
    assert [step["lr"][0] for step in used] == [1e-3 * factor(None, STEPS + n, TRAJECTORY) for n in (1, 2)]
    assert used[0]["weight_decay"] == [0.0, 0.5]


def test_carrying_weights_starts_everything_else_anew(alone: dict[str, Any]) -> None:
    longer = alone["longer"]
    assert longer["used"][0]["steps_before"] == 0
    assert [event["lr"] for event in longer["steps"]] == [PEAK * factor(None, step, TRAJECTORY) for step in (1, 2)]
    assert longer["read"] == list(range(2 * BATCH))
    # Trained weights, at another theta and length: better than new ones.
    assert longer["before"] < alone["first"]["before"] - 0.3


def test_published_checkpoints_can_be_named(alone: dict[str, Any], folder: Path) -> None:
    kept = sorted(path.name for path in (folder / "both" / "checkpoints").iterdir())
    assert kept == ["step-16", "step-20", "step-24"]
    assert sorted(path.name for path in (folder / "first" / "checkpoints").iterdir()) == ["step-12"]
    assert alone["midway"]["read"] == alone["both"]["read"][16 * BATCH : 17 * BATCH]
    assert losses(alone["midway"]) == losses(alone["both"])[16:17]


def test_a_hugging_face_folder_can_be_started_from(alone: dict[str, Any]) -> None:
    # float32 weights come back bit by bit, so the loss does too.
    assert alone["imported"]["before"] == alone["first"]["after"]
    assert alone["imported"]["used"][0]["steps_before"] == 0


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("missing", ["lacks model.layers.1.self_attn.k_proj.weight"]),
        ("extra", ["has model.layers.0.self_attn.q_norm.weight, which the model does not have"]),
        ("misshapen", ["model.norm.weight of shape 16 instead of 32"]),
        ("nothing to carry", ["'base' published none", "carry: weights"]),
        ("other model", ["lacks layers.2.attention.qkv_linear.wk.weight", "and 4 more"]),
        ("no such checkpoint", ["'step-9'", "'step-12'"]),
        ("small vocabulary", ["64 tokens", "63"]),
        ("group of none", ["is in no group of the optimizer", "such as '.'"]),
        ("trajectory", ["trajectory_steps (24)", "13 to 25"]),
        ("processes", ["2 processes and 1 run"]),
        ("diverged", ["in step 2", "Lower the learning rate"]),
        ("no numbers by its last step", ["the weights are no longer finite after step 1"]),
        ("too large by its last step", ["the held-out loss is nan in step 1"]),
        ("short", ["torchtitan does not take", "exceeds attention RoPE maximum supported sequence length 16"]),
    ],
)
def test_what_does_not_fit_is_refused_by_name(alone: dict[str, Any], case: str, words: list[str]) -> None:
    for word in words:
        assert word in alone["refused"][case]


def test_no_checkpoint_is_kept_of_a_broken_model(alone: dict[str, Any], folder: Path) -> None:
    assert "diverged" in alone["refused"]
    assert [path.name for path in (folder / "diverged" / "checkpoints").iterdir()] == ["step-1"]
    assert list((folder / "broken" / "checkpoints").iterdir()) == []
