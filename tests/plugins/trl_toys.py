"""The toys that the tests of the TRL stages share: a random model, sums to learn, losses, stages that have run.

``python trl_toys.py FOLDER BASE`` runs the fine-tuning stage of these tests, for those that need it in another process.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
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
    Proof,
    Schedule,
    Source,
    StageContext,
    StageRef,
    StageStopped,
    Use,
)
from smolrecipe.running.metrics import MetricsWriter
from smolrecipe.stage import read_events
from smolrecipe_trl import (
    Parallelism,
    PreferenceOptions,
    SftOptions,
    run_preference,
    run_sft,
    verify_preference,
    verify_sft,
)

SPECIAL = ("<pad>", "<eos>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
STEPS = 12
WEIGHTS = "model/model.safetensors"
PUBLISHED = {"model", "row_sample.parquet", "held_out.json"}
STORED = {"metrics.jsonl", "stage.json"}
"""What the run store adds."""


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
    shape = "preference" if "chosen" in next(kind(start, end)) else "chat"
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


def breaking(at: int) -> Use[Optimizer]:
    """An optimizer whose step of that number makes weights of which no loss is finite."""

    class Breaking(torch.optim.AdamW):
        made = 0

        def step(self, closure: Any = None) -> None:
            super().step(closure)
            self.made += 1
            if self.made == at:
                for group in self.param_groups:
                    for parameter in group["params"]:
                        parameter.detach().mul_(float("inf"))

    return Use(Optimizer(name="b", summary="", factory=lambda options: Breaking, groups=adamw_groups), LearningRate())


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


def asking_to_stop(when: Callable[[Mapping[str, Any]], bool]) -> Callable[[Mapping[str, Any]], None]:
    """What reports events, and asks the stage to stop, as a scheduler does, at the first that is meant."""
    asked: list[bool] = []

    def report(event: Mapping[str, Any]) -> None:
        if not asked and when(event):
            asked.append(True)
            os.kill(os.getpid(), signal.SIGTERM)

    return report


def stopped_after(step: int, options: SftOptions | PreferenceOptions, folder: Path, base: Path) -> int:
    """Run a stage that is asked to stop when it has made the step before this one; returns what it says it saved."""
    where = attrs.evolve(context(folder, base), report=asking_to_stop(lambda event: event.get("step") == step - 1))
    stage = run_sft if isinstance(options, SftOptions) else run_preference
    with pytest.raises(StageStopped) as stopped:
        stage(options, where)
    return stopped.value.step


def publish(trained: Run) -> Path:
    """Write beside a stage's files what the run store writes when it publishes them, and return the folder."""
    (trained.folder / "metrics.jsonl").unlink(missing_ok=True)
    write = MetricsWriter(trained.folder / "metrics.jsonl")
    for event in trained.events:
        write(event)
    told = {"recipe": "test", "stage": "trained", "kind": "sft", "digest": "0" * 64, "parents": {}, "plugins": {}}
    told |= {"options": {"use": "sft"}, "started": "", "seconds": 0.0, **attrs.asdict(trained.artifact)}
    (trained.folder / "stage.json").write_text(json.dumps(told))
    return trained.folder


def proofs(options: SftOptions | PreferenceOptions, folder: Path, base: Path) -> list[Proof]:
    """What ``verify`` says of a published artifact."""
    where = StageContext(recipe="test", stage="trained", folder=folder, inputs={"base": base})
    check = verify_sft if isinstance(options, SftOptions) else verify_preference
    return list(check(options, where))


def edit_json(path: Path, edit: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def edit_steps(folder: Path, edit: Callable[[dict[str, Any]], None] | None, step: int) -> None:
    """Change the line of a step in the metrics, or drop it."""
    path = folder / "metrics.jsonl"
    events = read_events(path)
    for event in [event for event in events if event.get("step") == step]:
        if edit is None:
            events.remove(event)
        else:
            edit(event)
    path.write_text("".join(json.dumps(event) + "\n" for event in events))


def equal(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


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


_MADE: dict[str, Any] = {}


def once(name: str, make: Callable[[], Any]) -> Any:
    """What ``make`` makes, made once in this process: fixtures of several files share it."""
    if name not in _MADE:
        _MADE[name] = make()
    return _MADE[name]


def base_artifact(folders: pytest.TempPathFactory) -> Path:
    """The artifact that the stages start from."""

    def make() -> Path:
        folder = folders.mktemp("base")
        write_base(folder / "model")
        return folder

    return once("base", make)


def trained_sft(folders: pytest.TempPathFactory) -> Run:
    """Fine-tuning that nothing interrupted."""
    return once("sft", lambda: run(sft_options(), folders.mktemp("sft") / "whole", base_artifact(folders)))


def aligned_model(folders: pytest.TempPathFactory) -> Run:
    """Ten steps of APO-zero, with the checkpoint after half of them."""
    options = preference_options(APO, keep=(0.5,))
    return once("aligned", lambda: run(options, folders.mktemp("aligned") / "stage", base_artifact(folders)))


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
