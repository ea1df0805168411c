"""Checkpoints both ways: a folder that transformers saved, through torchtitan's checkpoint, and out again, bit for bit.

A step at learning rate 1e-60 moves no float32, so what a stage publishes is what it was given. Tied or not, in one file
or in many, float32 or bfloat16, and from the published folder once more.
"""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast, SmolLM3Config, SmolLM3ForCausalLM

from smolrecipe.stage import read_events

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[[Sequence[str | Path]], "subprocess.Popen[str]"]
VOCABULARY = 300
RECIPE = """\
name: both-ways
model:
  decoder: {use: decoder, hidden_size: 32, num_layers: 4, num_heads: 4, intermediate_size: 48, vocab_size: 300}
  attention: {use: gqa, num_heads: 4, num_kv_heads: 2}
  rope: {use: rope, theta: 10_000, max_positions: 64}
  nope: {use: nope}
  docmask: {use: docmask}
stages:
  tokens:
    use: tokenize
    tokenizer: ./tied
    sources: {text: {use: files, paths: [text.txt], yields: text}}
    held_out: 0
  tied: {extends: stage.yaml, from: ./tied}
  untied: {extends: stage.yaml, from: ./untied, export_dtype: bfloat16, model: {decoder: {tie_embeddings: false}}}
  again: {extends: stage.yaml, from: untied, export_dtype: bfloat16, model: {decoder: {tie_embeddings: false}}}
"""
STAGE = """\
use: pretrain
tokenizer: ./tied
data: {use: mixture, from: [tokens], weights: {text: 1}}
steps: 1
sequence_length: 32
global_batch: 2
optimizer: {use: adamw, lr: 1.0e-60, weight_decay: 0}
schedule: {use: wsd, warmup_steps: 0, decay_start: 1, decay_steps: 1}
precision: float32
held_out_rows: 0
"""


def save_model(folder: Path, *, tied: bool, dtype: torch.dtype, shard: str) -> None:
    """Save a model as transformers does, with its tokenizer and chat template."""
    torch.manual_seed(0)
    config = SmolLM3Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=tied,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    model = SmolLM3ForCausalLM(config).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder, max_shard_size=shard)
    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2, **{f"w{number}": number for number in range(3, VOCABULARY)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")
    fast.chat_template = "{{ messages[0].content }}"
    fast.save_pretrained(folder)


def stored(folder: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The recipe, its text and two models that transformers saved."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "stage.yaml").write_text(STAGE)
    (tmp_path / "text.txt").write_text("".join(f"w{3 + number % 290} " for number in range(400)))
    save_model(tmp_path / "tied", tied=True, dtype=torch.float32, shard="20KB")
    save_model(tmp_path / "untied", tied=False, dtype=torch.bfloat16, shard="5GB")
    return tmp_path / "recipe.yaml"


def test_every_bit_goes_in_and_out_and_in_again(recipe: Path, tmp_path: Path, smolrecipe: Run) -> None:
    tied, untied = stored(tmp_path / "tied"), stored(tmp_path / "untied")
    assert len(list((tmp_path / "tied").glob("*.safetensors"))) > 1 and "lm_head.weight" not in tied
    stages = json.loads(smolrecipe("run", recipe, "--json", check=0).stdout)["stages"]
    artifacts = {stage["stage"]: tmp_path / stage["folder"] for stage in stages}
    for name, given in (("tied", tied), ("untied", untied), ("again", untied)):
        folder = artifacts[name] / "model"
        made = stored(folder)
        assert made.keys() == given.keys(), name
        assert all(made[key].dtype == value.dtype and torch.equal(made[key], value) for key, value in given.items())
        loaded = SmolLM3ForCausalLM.from_pretrained(folder, dtype="auto")
        assert loaded.dtype == next(iter(given.values())).dtype and loaded.config.tie_word_embeddings == (
            name == "tied"
        )
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer.chat_template and tokenizer("w7 w9").input_ids == [7, 9] and tokenizer.eos_token_id == 1


def test_a_folder_that_does_not_fit_is_refused_by_name(recipe: Path, tmp_path: Path, smolrecipe: Run) -> None:
    """Once by the recipe's model, once by the one that its own configuration describes."""
    result = smolrecipe("run", recipe, "--set", "stages.tied.model.decoder.num_layers=8", check=1)
    assert "stage 'tied': checkpoint" in result.stderr
    assert "lacks model.layers.4.input_layernorm.weight" in result.stderr
    tensors = load_file(tmp_path / "untied" / "model.safetensors")
    tensors["model.layers.2.mlp.up_proj.weight"] = tensors["model.layers.2.mlp.up_proj.weight"][:40].contiguous()
    save_file(tensors, tmp_path / "untied" / "model.safetensors", metadata={"format": "pt"})
    result = smolrecipe("run", recipe, check=1)
    assert "stage 'untied-2'" in result.stderr
    assert "model.layers.2.mlp.up_proj.weight of shape 40 x 32 instead of 48 x 32" in result.stderr


def test_two_processes_that_are_asked_to_stop_save_and_the_same_command_goes_on(
    recipe: Path, tmp_path: Path, smolrecipe: Run, start_smolrecipe: Start
) -> None:
    """Through the command line and the launcher, with real learning rates: the bits of a run that nobody stopped."""
    recipe.write_text(RECIPE[: RECIPE.index("  untied:")])
    settings = {
        "steps": 150,
        "checkpoint_every": 40,
        "keep_checkpoints": 3,
        "optimizer.lr": "1.0e-3",
        "schedule.decay_start": 150,
        "parallelism.data_parallel": 2,
        "micro_batch": 1,
    }
    changes = [word for key, value in settings.items() for word in ("--set", f"stages.tied.{key}={value}")]

    def steps() -> list[int]:
        found = [*(tmp_path / "runs").glob("both-ways/tied-*/metrics.jsonl")]
        return [event["step"] for path in found for event in read_events(path) if "step" in event]

    process = start_smolrecipe(["run", recipe, *changes])
    end = time.monotonic() + 120
    while steps()[-1:] < [3] and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    stopped = steps()[-1]
    assert 3 <= stopped < 150
    assert f"interrupted in stage 'tied', saved after step {stopped}\n  to go on: " in said
    smolrecipe("run", recipe, *changes, check=0)
    smolrecipe("run", recipe, *changes, "--runs", "undisturbed", check=0)
    assert [*steps()] == [*range(1, 151)]
    went_on, undisturbed = (
        {
            str(path.relative_to(artifact)): hashlib.sha256(path.read_bytes()).hexdigest()
            for artifact in (tmp_path / runs).glob("both-ways/tied-*")
            for path in [*artifact.glob("checkpoints/*/*"), *artifact.glob("model/*")]
        }
        for runs in ("runs", "undisturbed")
    )
    assert [name for name in sorted(went_on) if name.endswith("checkpoint.json")] == [
        f"checkpoints/step-{step}/checkpoint.json" for step in (120, 150, 80)
    ]
    assert went_on == undisturbed
