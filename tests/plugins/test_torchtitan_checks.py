"""What can be known of a pretraining stage before anything runs."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from titan_toys import PRETRAIN, PRIVATE, VOCABULARY, make_model, make_options, write_tokenizer

from smolrecipe import Devices, ModelComponent, StageError
from smolrecipe_torchtitan import DecoderOptions, ParallelismOptions
from smolrecipe_torchtitan.checks import check_decoder, check_pretrain, devices, produces
from smolrecipe_torchtitan.tokenizer import read_tokenizer


def test_tokenizer_facts(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "tokenizer")
    facts = read_tokenizer(tmp_path / "tokenizer")
    assert facts.size == VOCABULARY
    assert facts.special == {"bos_token": None, "eos_token": 1, "pad_token": 0}


def bounded(positions: int) -> ModelComponent:
    return ModelComponent(
        name=f"bounded-{positions}",
        summary="",
        apply=lambda draft, options: None,
        to_hf=lambda config, options: None,
        max_positions=lambda options: positions,
    )


PIPELINE = partial(ParallelismOptions, pipeline_parallel=2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": make_model(bounded(16))}, "sequence_length (32) is longer than the 16 positions"),
        ({"parallelism": PIPELINE()}, "set tie_embeddings: false, or use tensor_parallel or data_parallel"),
        ({"global_batch": 6}, "global_batch (6) is not a multiple of 4: micro_batch (4) times"),
        ({"parallelism": ParallelismOptions(data_parallel=2, replicas=2)}, "(data_parallel 2 x replicas 2)"),
        ({"parallelism": ParallelismOptions(tensor_parallel=8)}, "4 query heads cannot be shared evenly"),
        ({"parallelism": ParallelismOptions(context_parallel=3)}, "sequence_length (32) is not a multiple of 6"),
        ({"loss_chunks": 5}, "loss_chunks (5) does not divide the 32 tokens"),
        ({"carry": "everything"}, "carry: everything needs a stage"),
        ({"trajectory_steps": 5}, "trajectory_steps (5) is less than steps (12)"),
        (
            {"parallelism": PIPELINE(pipeline_microbatch=3), "model": make_model(tie_embeddings=False)},
            "micro_batch (4) is not a multiple of pipeline_microbatch (3)",
        ),
        (
            {"parallelism": PIPELINE(pipeline_parallel=8), "model": make_model(tie_embeddings=False)},
            "2 layers cannot be spread over pipeline_parallel 8 with the schedule 1F1B, which cuts them into 8 runs",
        ),
        (
            {
                "parallelism": PIPELINE(pipeline_parallel=3, pipeline_schedule="LoopedBFS"),
                "model": make_model(tie_embeddings=False),
            },
            "cuts them into 6 runs: lower the degree, or use the schedule 1F1B",
        ),
        (
            {"parallelism": PIPELINE(pipeline_microbatch=4), "model": make_model(tie_embeddings=False)},
            "micro_batch (4) / pipeline_microbatch (4) is 1, pipeline_parallel 2; raise micro_batch to 8",
        ),
        (
            {"parallelism": PIPELINE(pipeline_schedule="DualPipeV"), "model": make_model(tie_embeddings=False)},
            "cannot measure a held-out loss: set held_out_rows: 0",
        ),
        (
            {"parallelism": ParallelismOptions(tensor_parallel=2), "model": make_model(intermediate_size=45)},
            "45 columns of the feed-forward network (intermediate_size) cannot be shared evenly",
        ),
        (
            {"parallelism": ParallelismOptions(tensor_parallel=2), "model": make_model(vocab_size=65)},
            "65 rows of the vocabulary (vocab_size) cannot be shared evenly",
        ),
    ],
)
def test_mistakes_found_before_anything_runs(changes: dict[str, Any], words: str) -> None:
    problems = list(check_pretrain(make_options(**changes)))
    assert any(words in problem for problem in problems), problems


def test_what_a_component_says_of_its_place_is_a_mistake_in_the_recipe() -> None:
    def refuse(config: dict[str, Any], options: Any) -> None:
        raise StageError("model component 'early' finds no decoder")

    early = ModelComponent(name="early", summary="", apply=lambda draft, options: None, to_hf=refuse)
    assert list(check_pretrain(make_options(model=make_model(early)))) == ["model component 'early' finds no decoder"]


def test_nothing_is_wrong_with_the_options_of_these_tests() -> None:
    assert list(check_pretrain(make_options())) == []
    assert (
        list(check_decoder(DecoderOptions(hidden_size=8, num_layers=1, num_heads=2, intermediate_size=8, vocab_size=8)))
        == []
    )


def test_the_last_bound_on_positions_holds() -> None:
    """A component such as YaRN raises the bound of the one before it."""
    assert list(check_pretrain(make_options(model=make_model(bounded(16), bounded(32))))) == []


def test_a_decoders_heads_must_add_up() -> None:
    sizes = {"num_layers": 1, "intermediate_size": 8, "vocab_size": 8}
    (uneven,) = check_decoder(DecoderOptions(hidden_size=10, num_heads=4, **sizes))
    assert "hidden_size (10) is not a multiple of num_heads (4)" in uneven
    (odd,) = check_decoder(DecoderOptions(hidden_size=12, num_heads=4, **sizes))
    assert "odd width (3)" in odd
    assert list(check_decoder(DecoderOptions(hidden_size=10, num_heads=4, head_dim=4, **sizes))) == []


def test_what_a_stage_produces_and_needs() -> None:
    assert produces(make_options()) == {"checkpoint": True, "hf-model": True}
    without = produces(make_options(model=make_model(PRIVATE)))
    assert without == {"checkpoint": True, "hf-model": "model component 'private' has no Hugging Face counterpart"}
    layout = ParallelismOptions(device="cuda", data_parallel=4, replicas=2, tensor_parallel=2, memory_gib=80)
    assert devices(make_options(parallelism=layout)) == Devices(processes=16, device="cuda", memory_gib=80)
    assert PRETRAIN.devices(make_options()) == Devices()


def test_a_plain_decoder_leaves_nothing_to_the_defaults_of_the_3b_model() -> None:
    config = make_model(num_layers=3).to_hf()
    assert config["no_rope_layers"] == [1, 1, 1]
    assert config["rope_parameters"] == {"rope_type": "default", "rope_theta": 10000.0}
    assert config["num_key_value_heads"] == config["num_attention_heads"] == 4


def test_the_light_modules_import_no_engine() -> None:
    code = (
        "import sys, smolrecipe_torchtitan, smolrecipe_torchtitan.checks; "
        "print([name for name in ('torch', 'torchtitan', 'transformers', 'numpy') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
