"""The TRL stages trained: packing, resuming, several processes, and any preference loss against TRL's own.

``python test_trl.py FOLDER BASE`` runs the fine-tuning stage of these tests, for those that need it in another process.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from attrs import frozen
from safetensors.torch import load_file

from smolrecipe import (
    Artifact,
    Loss,
    NoOptions,
    Optimizer,
    ParameterGroup,
    PreferenceBatch,
    PreferenceLoss,
    Schedule,
    Source,
    StageContext,
    StageError,
    StageRef,
    Use,
)
from smolrecipe_trl import Parallelism, PreferenceOptions, SftOptions, run_preference, run_sft

SPECIAL = ("<pad>", "<eos>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
STEPS = 12
WEIGHTS = "model/model.safetensors"


# The toys


def write_base(folder: Path, **changes: Any) -> None:
    """A random two-layer SmolLM3 with a tokenizer of bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, SmolLM3Config, SmolLM3ForCausalLM

    vocabulary = {
        token: number for number, token in enumerate([*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())])
    }
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(SPECIAL))
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>").save_pretrained(folder)
    torch.manual_seed(0)
    settings = {
        "vocab_size": len(vocabulary),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "no_rope_layer_interval": 2,
        "max_position_embeddings": 256,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": None,
        "use_cache": True,
    }
    SmolLM3ForCausalLM(SmolLM3Config(**{**settings, **changes})).save_pretrained(folder)


def sums(start: int, end: int) -> Iterator[dict[str, Any]]:
    """Conversations about sums, every second one with reasoning."""
    for number in range(start, end):
        one, other = number % 7, (number * 3) % 11
        thought = "<think>\nadd\n</think>\n" if number % 2 else ""
        yield {
            "messages": [
                {"role": "user", "content": f"{one}+{other}?"},
                {"role": "assistant", "content": f"{thought}{one + other}"},
            ],
            "chat_template_kwargs": {"enable_thinking": bool(number % 2)},
        }


def preferences(start: int, end: int) -> Iterator[dict[str, Any]]:
    """A right and a wrong sum as answers to one prompt."""
    for number, row in enumerate(sums(start, end), start):
        question, answer = row["messages"]
        wrong = {"role": "assistant", "content": f"{answer['content'][:-1]}{'?' * (1 + number % 4)}"}
        yield {
            "prompt": [question],
            "chosen": [answer],
            "rejected": [wrong],
            **{k: row[k] for k in ("chat_template_kwargs",)},
        }


def rows(kind: Any, start: int, end: int) -> Use[Source]:
    shape = "chat" if kind is sums else "preference"
    return Use(
        Source(name="sums", summary="", read=lambda options: kind(start, end), yields=lambda options: shape),
        NoOptions(),
    )


@frozen
class LearningRate:
    lr: float = 3e-3


def adamw_groups(options: LearningRate) -> list[ParameterGroup]:
    settings = {"lr": options.lr, "betas": (0.9, 0.95)}
    return [
        ParameterGroup(pattern="embed_tokens|lm_head", settings={**settings, "weight_decay": 0.0}),
        ParameterGroup(pattern=".", settings={**settings, "weight_decay": 0.1}),
    ]


def adamw(lr: float = 3e-3) -> Use[Optimizer]:
    optimizer = Optimizer(name="adamw", summary="", factory=lambda options: torch.optim.AdamW, groups=adamw_groups)
    return Use(optimizer, LearningRate(lr))


def falling(options: Any, step: int, steps: int) -> float:
    return 1 - (step - 1) / steps


FALLING = Use(Schedule(name="falling", summary="", factor=falling), NoOptions())
CONSTANT = Use(Schedule(name="constant", summary="", factor=lambda options, step, steps: 1.0), NoOptions())


def sft_options(**changes: Any) -> SftOptions:
    settings: dict[str, Any] = {
        "from_": StageRef("base"),
        "data": {"sums": rows(sums, 0, 64)},
        "held_out": {"sums": rows(sums, 64, 84)},
        "chat_template": "compact",
        "max_length": 128,
        "max_steps": STEPS,
        "global_batch": 4,
        "optimizer": adamw(),
        "schedule": FALLING,
        "precision": "float32",
        "loss_on": "assistant",
        "checkpoint_every": 3,
    }
    return SftOptions(**{**settings, **changes})


def preference_options(loss: Use[Loss], **changes: Any) -> PreferenceOptions:
    settings: dict[str, Any] = {
        "from_": StageRef("base"),
        "data": {"sums": rows(preferences, 0, 24)},
        "held_out": {"sums": rows(preferences, 24, 34)},
        "chat_template": "compact",
        "max_length": 128,
        "max_steps": 10,
        "global_batch": 4,
        "micro_batch": 2,
        "optimizer": adamw(1e-3),
        "schedule": FALLING,
        "precision": "float32",
        "loss": loss,
    }
    return PreferenceOptions(**{**settings, **changes})


def context(folder: Path, base: Path, events: list[Mapping[str, Any]] | None = None, **process: int) -> StageContext:
    folder.mkdir(parents=True, exist_ok=True)
    report = (lambda event: None) if events is None else events.append
    return StageContext(recipe="test", stage="trained", folder=folder, inputs={"base": base}, report=report, **process)


@frozen
class Run:
    """A stage that has run: where, what it handed back and what it reported."""

    folder: Path
    artifact: Artifact
    events: list[Mapping[str, Any]]

    @property
    def steps(self) -> list[Mapping[str, Any]]:
        return [event for event in self.events if "step" in event]

    @property
    def messages(self) -> list[str]:
        return [event["message"] for event in self.events if "message" in event]

    def weights(self, path: str = WEIGHTS) -> dict[str, torch.Tensor]:
        return load_file(self.folder / path)

    def measure(self, name: str) -> Any:
        return next(measure for measure in self.artifact.measures if measure.name == name)


def run(options: SftOptions | PreferenceOptions, folder: Path, base: Path) -> Run:
    events: list[Mapping[str, Any]] = []
    stage = run_sft if isinstance(options, SftOptions) else run_preference
    return Run(folder, stage(options, context(folder, base, events)), events)


def equal(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact that the stages start from."""
    folder = tmp_path_factory.mktemp("base")
    write_base(folder / "model")
    return folder


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums are added in one order in every process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def sft(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Fine-tuning that nothing interrupted."""
    return run(sft_options(), tmp_path_factory.mktemp("sft") / "whole", base)


# Fine-tuning


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
    assert {path.name for path in sft.folder.iterdir()} == {"model"}
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

    options = sft_options(loss_on="all")
    where = context(tmp_path / "stage", base)
    tokenizer = load_tokenizer(base / "model", options)
    packed = stage._rows(options, where, tokenizer).train
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
    command = [sys.executable, __file__, str(folder), str(base)]
    killed = subprocess.run(command, env=environment(KILL_AT="8"), capture_output=True, text=True, timeout=240)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (folder / "model").exists()
    # As if it had been killed while it wrote the next one: weights are there, the rest is not.
    torn = folder / "trainer" / "checkpoint-9"
    shutil.copytree(folder / "trainer" / "checkpoint-6", torn, ignore=shutil.ignore_patterns("*.pt", "complete.json"))
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
            [sys.executable, __file__, str(folder), str(base)],
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
    with pytest.raises(StageError, match=r"is (nan|inf) in step 2 of 12: lower the learning rate"):
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


# Preferences


@frozen
class Beta:
    beta: float = 0.1


def apo_zero(batch: PreferenceBatch, options: Beta) -> PreferenceLoss:
    """APO-zero, equation 7 of arXiv:2408.06266."""
    assert batch.reference_chosen is not None and batch.reference_rejected is not None
    chosen = options.beta * (batch.policy_chosen - batch.reference_chosen)
    rejected = options.beta * (batch.policy_rejected - batch.reference_rejected)
    return PreferenceLoss(
        losses=(1 - torch.sigmoid(chosen)) + torch.sigmoid(rejected), chosen_rewards=chosen, rejected_rewards=rejected
    )


def simpo(batch: PreferenceBatch, options: Beta) -> PreferenceLoss:
    """SimPO, equation 6 of arXiv:2405.14734, without a reference."""
    assert batch.reference_chosen is None and batch.reference_rejected is None
    chosen = options.beta * batch.policy_chosen / batch.chosen_tokens
    rejected = options.beta * batch.policy_rejected / batch.rejected_tokens
    losses = -torch.nn.functional.logsigmoid(chosen - rejected - 0.5)
    return PreferenceLoss(losses=losses, chosen_rewards=chosen, rejected_rewards=rejected)


APO = Use(Loss(name="apo_zero", summary="", loss=apo_zero), Beta())


@pytest.fixture(scope="module")
def aligned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Ten steps of APO-zero, with the checkpoint after half of them."""
    return run(preference_options(APO, keep=(0.5,)), tmp_path_factory.mktemp("aligned") / "stage", base)


def test_a_plugged_in_loss_is_bitwise_trls_own(aligned: Run, base: Path, tmp_path: Path) -> None:
    """TRL renders, tokenises and computes APO-zero by itself here, on the same rows in the same order."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer

    from smolrecipe_trl.engine import load_tokenizer
    from smolrecipe_trl.sample_order import row_order

    options = preference_options(APO)
    model = AutoModelForCausalLM.from_pretrained(base / "model", dtype=torch.float32, attn_implementation="sdpa")
    decayed = [parameter for name, parameter in model.named_parameters() if "embed_tokens" not in name]
    spared = [parameter for name, parameter in model.named_parameters() if "embed_tokens" in name]
    optimizer = torch.optim.AdamW(
        [{"params": spared, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 0.1}], lr=1e-3, betas=(0.9, 0.95)
    )
    arguments = DPOConfig(
        output_dir=str(tmp_path),
        loss_type="apo_zero",
        beta=0.1,
        max_steps=10,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        train_sampling_strategy="sequential",
        bf16=False,
        use_cpu=True,
        activation_checkpointing=False,
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        seed=options.seed,
    )
    theirs = DPOTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(list(preferences(0, 24))).select(row_order(24, 40, options.seed)),
        processing_class=load_tokenizer(base / "model", options),
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 10)),
    )
    theirs.train()
    history = [entry for entry in theirs.state.log_history if "loss" in entry]
    assert [event["loss"] for event in aligned.steps] == [entry["loss"] for entry in history]
    assert [event["reward_margin"] for event in aligned.steps] == pytest.approx(
        [entry["rewards/margins"] for entry in history], abs=1e-6
    )
    expected = dict(model.named_parameters())
    weights = aligned.weights()
    assert weights.keys() == expected.keys() and all(torch.equal(weights[name], expected[name]) for name in weights)


def test_rewards_are_measured_before_and_after(aligned: Run) -> None:
    margin, accuracy = aligned.measure("reward margin"), aligned.measure("reward accuracy")
    assert margin.before == 0.0 and accuracy.before == 0.5  # the policy is its own reference
    assert margin.after > 0.1 and accuracy.after > 0.8 and margin.samples == 10
    assert aligned.measure("held-out preference loss").before == 1.0
    assert aligned.steps[0]["loss"] == 1.0 and aligned.steps[-1]["reward_accuracy"] == 1.0


def test_a_fraction_of_the_run_is_kept(aligned: Run, base: Path, tmp_path: Path) -> None:
    """The checkpoint after half of ten steps is where the same schedule, ended after five, gets."""
    half = Use(
        Schedule(name="half", summary="", factor=lambda options, step, steps: falling(None, step, 10)), NoOptions()
    )
    ended = run(preference_options(APO, schedule=half, max_steps=5, held_out={}), tmp_path, base)
    kept = "checkpoints/0.5/" + WEIGHTS
    assert equal(aligned.weights(kept), ended.weights()) and not equal(aligned.weights(kept), aligned.weights())
    assert aligned.artifact.summary["kept"] == {"0.5": 5}
    assert (aligned.folder / "checkpoints/0.5/model/chat_template.jinja").exists()
    assert {path.name for path in aligned.folder.iterdir()} == {"model", "checkpoints"}


def living_models() -> int:
    gc.collect()
    return sum(type(item).__name__ == "SmolLM3ForCausalLM" for item in gc.get_objects())


def test_a_loss_without_reference_loads_none(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts the models that are alive in the middle of training."""
    from trl import DPOTrainer

    before, alive = living_models(), []

    def count(batch: PreferenceBatch, options: Beta) -> PreferenceLoss:
        if not alive and batch.policy_chosen.requires_grad:
            alive.append(living_models())
        return simpo(batch, options)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a reference was computed")

    monkeypatch.setattr(DPOTrainer, "compute_ref_log_probs", refuse)
    counting = Use(Loss(name="simpo", summary="", loss=count, needs_reference=False), Beta(2.0))
    free = run(preference_options(counting, max_steps=4), tmp_path, base)
    assert alive == [before + 1]
    assert free.artifact.summary["reference_model"] is False
    assert free.measure("reward margin").after > free.measure("reward margin").before


@pytest.mark.parametrize(
    ("loss", "complaint"),
    [
        (lambda batch, options: PreferenceLoss(losses=batch.policy_chosen.mean()), r"returned losses of shape \(\)"),
        (lambda batch, options: PreferenceLoss(losses=batch.policy_chosen.detach()), "does not depend on the policy"),
    ],
)
def test_a_loss_that_is_none_is_refused(loss: Any, complaint: str, base: Path, tmp_path: Path) -> None:
    use = Use(Loss(name="odd", summary="", loss=loss, needs_reference=False), NoOptions())
    with pytest.raises(StageError, match=f"loss 'odd' {complaint}"):
        run(preference_options(use, max_steps=1, held_out={}), tmp_path, base)


# Another process


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def main(folder: Path, base: Path) -> None:
    """Run the fine-tuning stage as one of the processes that the environment tells of; KILL_AT a step, kill -9."""
    torch.set_num_threads(1)
    process = {
        "rank": int(os.environ.get("RANK", "0")),
        "local_rank": int(os.environ.get("LOCAL_RANK", "0")),
        "world_size": int(os.environ.get("WORLD_SIZE", "1")),
    }

    def report(event: Mapping[str, Any]) -> None:
        print(json.dumps(event), flush=True)
        if event.get("step") == int(os.environ.get("KILL_AT", "0")):
            os.kill(os.getpid(), signal.SIGKILL)

    where = attrs.evolve(context(folder, base, **process), report=report)
    artifact = run_sft(sft_options(parallelism=Parallelism(processes=process["world_size"])), where)
    if process["rank"] == 0:
        print(json.dumps({"measures": [attrs.asdict(measure) for measure in artifact.measures]}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
