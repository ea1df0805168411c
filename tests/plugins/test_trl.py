"""Fine-tuning with TRL: packing, resuming, several processes."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
import trl_toys
from safetensors.torch import load_file
from trl_toys import (
    CONSTANT,
    PUBLISHED,
    STEPS,
    STORED,
    WEIGHTS,
    Run,
    adamw,
    context,
    environment,
    equal,
    falling,
    rows,
    run,
    sft_options,
    sums,
    write_base,
)

from smolrecipe import StageError

pytest_plugins = ["trl_fixtures"]
pytestmark = pytest.mark.usefixtures("one_thread")


def test_sft_learns_and_measures_it_on_held_out_rows(sft: Run) -> None:
    loss, accuracy = sft.measure("held-out loss"), sft.measure("held-out token accuracy")
    assert loss.before == pytest.approx(5.56, abs=0.1)  # log(262), as an untrained model knows nothing
    assert loss.after < 0.75 * loss.before and loss.better == "lower" and loss.samples == 20
    assert accuracy.after > accuracy.before + 0.2
    summary = sft.artifact.summary
    assert summary["steps"] == summary["scheduled_steps"] == STEPS
    assert summary["sources"]["sums"]["rows"] == summary["documents"] == 64
    json.dumps(summary)


def test_every_step_is_reported_with_the_schedule_of_the_recipe(sft: Run) -> None:
    assert [event["step"] for event in sft.steps] == list(range(1, STEPS + 1))
    expected = [3e-3 * falling(None, step, STEPS) for step in range(1, STEPS + 1)]
    assert [event["lr"] for event in sft.steps] == pytest.approx(expected, rel=1e-12)
    assert all(event["grad_norm"] > 0 and event["tokens_per_second"] > 0 for event in sft.steps)
    assert sft.steps[-1]["loss"] < sft.steps[0]["loss"]


def test_what_is_published_loads_and_ends_its_turns(sft: Run, base: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = sft.folder / "model"
    assert {path.name for path in sft.folder.iterdir()} - STORED == PUBLISHED
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert model.generation_config.eos_token_id == model.config.eos_token_id == tokenizer.eos_token_id == end
    assert json.loads((folder / "config.json").read_text())["use_cache"] is True
    assert "lm_head.weight" not in sft.weights() and model.lm_head.weight is model.model.embed_tokens.weight
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "1+3?"}], add_generation_prompt=True, return_tensors="pt", enable_thinking=False
    )["input_ids"]
    assert tokenizer.decode(ids[0]).endswith("<|im_start|>assistant\n<think>\n\n</think>\n")
    assert model.generate(ids, max_new_tokens=4, do_sample=False).shape[1] > ids.shape[1]
    assert not equal(sft.weights(), load_file(base / WEIGHTS))


def test_a_packed_row_has_the_loss_of_its_documents_alone(base: Path, tmp_path: Path) -> None:
    """Against a plain forward pass of each document, and against the same row without the boundaries between them."""
    from transformers import AutoModelForCausalLM

    from smolrecipe_trl import sft as stage
    from smolrecipe_trl.engine import load_model, load_tokenizer
    from smolrecipe_trl.processes import joined

    options = sft_options(loss_on="all")
    where = context(tmp_path / "stage", base)
    tokenizer = load_tokenizer(base / "model", options)
    with joined(where, options.parallelism, 0) as processes:
        packed = stage._rows(options, where, processes, tokenizer).train
    model = load_model(base / "model", options, tokenizer)
    trainer = stage.make_trainer(options, where, packed, tokenizer, model, stage.Steps(1, 1))
    batch = next(iter(trainer.get_train_dataloader()))
    lengths = batch["cu_seq_lens_q"].diff().tolist()
    assert len(lengths) > 1 and "attention_mask" not in batch
    model.eval()
    with torch.no_grad():
        ours = float(trainer.compute_loss(model, dict(batch)))

    plain = AutoModelForCausalLM.from_pretrained(base / "model").eval()
    total, tokens = 0.0, 0
    with torch.no_grad():
        for ids in batch["input_ids"][0].split(lengths):
            logits = plain(ids[None]).logits[0, :-1]
            total += float(torch.nn.functional.cross_entropy(logits, ids[1:], reduction="sum"))
            tokens += len(ids) - 1
        mixed = plain(batch["input_ids"], attention_mask=torch.ones_like(batch["input_ids"])).logits[0, :-1]
        labels = batch["labels"][0, 1:]
        contaminated = float(torch.nn.functional.cross_entropy(mixed, labels, ignore_index=-100))
    assert ours == pytest.approx(total / tokens, abs=2e-6)  # float32 rounding of losses near 5.5
    assert abs(contaminated - ours) > 1e-4  # so the comparison above can fail


def test_killed_and_started_again_it_ends_with_the_same_bits(sft: Run, base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    command = [sys.executable, trl_toys.__file__, str(folder), str(base)]
    killed = subprocess.run(command, env=environment(KILL_AT="8"), capture_output=True, text=True, timeout=240)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (folder / "model").exists()
    # As if it had been killed while it wrote the next one: weights are there, the rest is not.
    torn = folder / "trainer" / "checkpoint-9"
    shutil.copytree(folder / "trainer" / "checkpoint-6", torn, ignore=shutil.ignore_patterns("*.pt", "seal.json"))
    resumed = run(sft_options(), folder, base)
    assert resumed.messages == ["checkpoint-9 was cut short and is not used", "going on from checkpoint-6"]
    assert [event["step"] for event in resumed.steps] == list(range(7, STEPS + 1))
    assert equal(resumed.weights(), sft.weights())
    assert resumed.artifact.measures == sft.artifact.measures


def test_interrupted_after_its_last_step_it_only_publishes(
    sft: Run, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from smolrecipe_trl import training

    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(training, "publish_model", interrupt)
        run(sft_options(), tmp_path, base)
    again = run(sft_options(), tmp_path, base)
    assert again.messages == [f"going on from checkpoint-{STEPS}"] and again.steps == []
    assert equal(again.weights(), sft.weights())
    assert again.artifact == sft.artifact


def test_two_processes_come_to_the_same_weights_as_one(sft: Run, base: Path, tmp_path: Path) -> None:
    """Data-parallel sums are added in another order, which 12 steps of AdamW carry to less than 1e-4."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    folder = tmp_path / "two"
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, trl_toys.__file__, str(folder), str(base)],
            env=environment(**shared, RANK=str(rank), LOCAL_RANK=str(rank)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[0][0].count('"step"') == STEPS and '"step"' not in outputs[1][0]
    two = load_file(folder / WEIGHTS)
    assert two.keys() == sft.weights().keys()
    assert max(float((two[name] - sft.weights()[name]).abs().max()) for name in two) < 1e-4
    measures = json.loads(outputs[0][0].splitlines()[-1])["measures"]
    assert [measure["after"] for measure in measures] == pytest.approx(
        [measure.after for measure in sft.artifact.measures], abs=1e-4
    )


def test_it_can_end_before_its_schedule_does(base: Path, tmp_path: Path) -> None:
    options = sft_options(
        data={"sums": rows(sums, 0, 12)}, held_out={}, max_steps=None, epochs=5.0, stop_after=2.0, packing="none"
    )
    stopped = run(attrs.evolve(options, micro_batch=4), tmp_path, base)
    assert (stopped.artifact.summary["steps"], stopped.artifact.summary["scheduled_steps"]) == (6, 15)
    assert [event["lr"] for event in stopped.steps] == pytest.approx([3e-3 * (1 - step / 15) for step in range(6)])
    assert stopped.steps[-1]["steps"] == 6 and stopped.artifact.measures == ()


@pytest.mark.parametrize("packing", ["wrapped", "bfd_split"])
def test_other_packings_train_in_bfloat16(packing: Any, base: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    options = sft_options(
        packing=packing,
        loss_on="all",
        held_out={},
        max_steps=2,
        precision="bfloat16",
        save_precision="bfloat16",
        activation_checkpointing=True,
        chat_template="chatml",
    )
    trained = run(options, tmp_path, base)
    assert {tensor.dtype for tensor in trained.weights().values()} == {torch.bfloat16}
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").dtype == torch.bfloat16
    assert 4 < trained.steps[-1]["loss"] < 6
    assert trained.artifact.summary["arguments_not_read"] == {"enable_thinking": 64}


def test_recomputed_activations_change_nothing(sft: Run, base: Path, tmp_path: Path) -> None:
    options = sft_options(activation_checkpointing=True, held_out={})
    assert equal(run(options, tmp_path, base).weights(), sft.weights())


def test_a_loss_that_is_not_finite_ends_training_and_names_the_step(base: Path, tmp_path: Path) -> None:
    options = sft_options(optimizer=adamw(1e25), schedule=CONSTANT, checkpoint_every=1, held_out={})
    with pytest.raises(StageError, match=r"is nan in step 2 of 12 \(the loss was .* in the step before\): lower the"):
        run(options, tmp_path, base)
    assert [path.name for path in (tmp_path / "trainer").glob("checkpoint-*")] == ["checkpoint-1"]


def test_a_tokenizer_that_is_too_large_for_the_model_is_refused(tmp_path: Path) -> None:
    write_base(tmp_path / "base" / "model", vocab_size=100)
    with pytest.raises(StageError, match=r"the tokenizer has 262 tokens, the model only 100"):
        run(sft_options(), tmp_path / "stage", tmp_path / "base")


def test_sharding_rounds_neither_gradients_nor_log_probabilities(tmp_path: Path) -> None:
    """accelerate reduces gradients and casts outputs in bfloat16 under FSDP2 unless it is given a policy."""
    from accelerate import FullyShardedDataParallelPlugin
    from trl import SFTConfig

    from smolrecipe_trl.engine import keep_full_precision

    arguments = SFTConfig(output_dir=str(tmp_path), fsdp=True, bf16=True, use_cpu=True, gradient_checkpointing=None)

    def policy() -> Any:
        plugin = FullyShardedDataParallelPlugin(**arguments.fsdp_plugin_args)
        plugin.set_mixed_precision("bf16")  # what the engine does with it
        return plugin.mixed_precision_policy

    assert policy().reduce_dtype == policy().output_dtype == torch.bfloat16
    keep_full_precision(arguments)
    assert policy().param_dtype == torch.bfloat16
    assert policy().reduce_dtype == torch.float32 and policy().output_dtype is None
