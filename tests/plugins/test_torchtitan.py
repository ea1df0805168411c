"""Pretraining on torchtitan, with an optimizer, a schedule and a packer of this file's own.

torchtitan takes over a process (its device, its process group), so everything that trains runs in processes of its own:
this file is also the script that they run. A few processes do many runs each, because starting one takes seconds.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import evolve, frozen

from smolrecipe import (
    Artifact,
    Devices,
    Model,
    ModelComponent,
    ModelDraft,
    NoOptions,
    Optimizer,
    Packer,
    ParameterGroup,
    Schedule,
    StageContext,
    StageError,
    StageRef,
    TokenRow,
    Use,
)
from smolrecipe_torchtitan import (
    DecoderOptions,
    ParallelismOptions,
    PretrainOptions,
    run,
    smolrecipe_model_components,
    smolrecipe_stages,
)
from smolrecipe_torchtitan.checks import check_decoder, check_pretrain, compose_hf_config, devices, produces
from smolrecipe_torchtitan.tokenizer import read_tokenizer

VOCABULARY = 64
LENGTH = 32
BATCH = 8
STEPS = 12
TRAJECTORY = 24
PEAK = 1e-2
WARMUP = 5

# --- what a recipe would get from other plugins -----------------------------------------------------------------------

USED: list[dict[str, Any]] = []
"""What the optimizer was given in every step that it made."""

READ: list[int] = []
"""Every sample that was asked for."""


@frozen(kw_only=True)
class AdamOptions:
    lr: float = PEAK
    weight_decay: float = 0.1
    pattern: str = "."
    breaks: bool = False


def adam(options: AdamOptions) -> type:
    import torch

    class WatchedAdam(torch.optim.AdamW):
        def step(self, closure: Any = None) -> None:
            if all(group["lr"] > 0 for group in self.param_groups):  # torchtitan makes states by a step at rate 0
                states = [state["step"].item() for state in self.state.values()]
                USED.append(
                    {
                        "lr": [group["lr"] for group in self.param_groups],
                        "weight_decay": [group["weight_decay"] for group in self.param_groups],
                        "steps_before": max(states, default=0.0),
                    }
                )
            super().step(closure)
            if options.breaks:
                for group in self.param_groups:
                    for parameter in group["params"]:
                        parameter.detach().fill_(math.nan)

    return WatchedAdam


def adam_groups(options: AdamOptions) -> list[ParameterGroup]:
    return [
        ParameterGroup(pattern="tok_embeddings|lm_head", settings={"lr": options.lr, "weight_decay": 0.0}),
        ParameterGroup(pattern=options.pattern, settings={"lr": options.lr, "weight_decay": options.weight_decay}),
    ]


def factor(options: Any, step: int, steps: int) -> float:
    return min(1.0, step / WARMUP) * (1 - 0.9 * (step - 1) / steps)


@frozen
class Rows:
    """Documents of made-up arithmetic sequences, packed; sample n depends on nothing but n."""

    length: int
    seed: int
    start: int

    def _row(self, *key: int) -> TokenRow:
        random = np.random.default_rng([self.seed, *key])
        tokens: list[int] = []
        positions: list[int] = []
        while len(tokens) <= self.length:
            size, token = int(random.integers(3, 20)), int(random.integers(2, VOCABULARY))
            for position in range(size):
                tokens.append(token)
                positions.append(position)
                token = 2 + (token * 5 + 7) % (VOCABULARY - 2)
            tokens.append(1)
            positions.append(size)
        tokens.append(0)
        positions.append(0)
        return TokenRow(
            np.array(tokens[: self.length + 1]),
            np.array(positions[: self.length]),
            last_starts_document=positions[self.length] == 0,
        )

    def row(self, sample: int) -> TokenRow:
        READ.append(self.start + sample)
        return self._row(0, self.start + sample)

    def held_out(self, rows: int) -> list[TokenRow]:
        return [self._row(1, number) for number in range(rows)]

    def position(self, samples: int) -> Mapping[str, int]:
        return {"made-up": self.start + samples}

    def summary(self) -> Mapping[str, Any]:
        return {"sources": 1}


ADAM = Optimizer(name="adam", summary="", options=AdamOptions, factory=adam, groups=adam_groups)
LINEAR = Schedule(name="linear", summary="", factor=factor)
PACKER = Packer(
    name="made-up",
    summary="",
    open=lambda options, context, length, seed, start: Rows(length, seed, (start or {}).get("made-up", 0)),
)
(DECODER,) = smolrecipe_model_components()
(PRETRAIN,) = smolrecipe_stages()


def turn_faster(draft: ModelDraft, options: Any) -> None:
    for layer in draft.decoder.layers:
        layer.attention.rope.theta = 5e4


FASTER = ModelComponent(
    name="faster",
    summary="",
    apply=turn_faster,
    to_hf=lambda config, options: config["rope_parameters"].update(rope_theta=5e4),
)
SHORT = ModelComponent(
    name="short",
    summary="",
    apply=lambda draft, options: setattr(draft.decoder.layers[0].attention.rope, "max_seq_len", LENGTH // 2),
    to_hf=None,
)
PRIVATE = ModelComponent(name="private", summary="", apply=lambda draft, options: None, to_hf=None)


def make_model(*others: ModelComponent, **changes: Any) -> Model:
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 48, "vocab_size": VOCABULARY}
    components = {"decoder": Use(DECODER, DecoderOptions(**{**sizes, **changes}))}
    return Model({**components, **{other.name: Use(other, NoOptions()) for other in others}})


def make_options(**changes: Any) -> PretrainOptions:
    values: dict[str, Any] = {
        "model": make_model(),
        "tokenizer": StageRef("tokenizer"),
        "data": Use(PACKER, NoOptions()),
        "steps": STEPS,
        "trajectory_steps": TRAJECTORY,
        "sequence_length": LENGTH,
        "global_batch": BATCH,
        "micro_batch": 4,
        "optimizer": Use(ADAM, AdamOptions()),
        "schedule": Use(LINEAR, NoOptions()),
        "precision": "float32",
        "held_out_rows": 7,
        "checkpoint_every": 4,
        "seed": 3,
    }
    return PretrainOptions(**{**values, **changes})


# --- the processes that train -----------------------------------------------------------------------------------------


def train(
    folder: Path,
    name: str,
    options: PretrainOptions,
    on_step: Callable[[Mapping[str, Any]], None] = lambda event: None,
    **inputs: Path,
) -> dict[str, Any]:
    """Run a stage in the folder ``name`` and return what there is to know about it."""
    USED.clear()
    READ.clear()
    events: list[dict[str, Any]] = []

    def report(event: Mapping[str, Any]) -> None:
        events.append(dict(event))
        if "step" in event:
            on_step(event)

    (folder / name).mkdir(exist_ok=True)
    context = StageContext(
        recipe="test",
        stage=name,
        folder=folder / name,
        inputs={"tokenizer": folder / "tokenizer", **inputs},
        rank=int(os.environ.get("RANK", "0")),
        world_size=int(os.environ.get("WORLD_SIZE", "1")),
        report=report,
    )
    if context.world_size > 1:
        # A second group of the same processes needs another port; the parent gives a range of them.
        os.environ["MASTER_PORT"] = str(int(os.environ["MASTER_PORT"]) + 1)
    artifact: Artifact = run(options, context)
    (measure,) = artifact.measures
    return {
        "steps": [event for event in events if "step" in event],
        "said": [event["message"] for event in events if "message" in event],
        "used": list(USED),
        "read": list(READ),
        "before": measure.before,
        "after": measure.after,
        "summary": dict(artifact.summary),
    }


def refusal(folder: Path, name: str, options: PretrainOptions, **inputs: Path) -> str:
    try:
        train(folder, name, options, **inputs)
    except StageError as error:
        return str(error)
    return "not refused"


def job_alone(folder: Path) -> dict[str, Any]:
    """Everything that one uninterrupted process can show."""
    first = folder / "first"
    carry = {"from_": StageRef("first"), "carry": "everything"}
    other_rates = Use(ADAM, AdamOptions(lr=1e-3, weight_decay=0.5))
    results: dict[str, Any] = {
        "first": train(folder, "first", make_options()),
        "both": train(folder, "both", make_options(steps=2 * STEPS, keep_checkpoints=3)),
        "second": train(folder, "second", make_options(**carry), first=first),
        "other rates": train(folder, "other", make_options(steps=2, optimizer=other_rates, **carry), first=first),
        "longer": train(
            folder,
            "longer",
            make_options(
                model=make_model(FASTER),
                steps=2,
                sequence_length=2 * LENGTH,
                from_=StageRef("first"),
                export_dtype="bfloat16",
            ),
            first=first,
        ),
        "midway": train(
            folder,
            "midway",
            make_options(steps=1, from_=StageRef("both", "step-16"), carry="everything"),
            both=folder / "both",
        ),
        "imported": train(folder, "imported", make_options(steps=1, from_hf=first / "model")),
        "private": train(folder, "private", make_options(model=make_model(PRIVATE, tie_embeddings=False), steps=4)),
        "masked": train_with_masks(folder),
    }
    results["refused"] = {
        "missing": refusal(folder, "no", make_options(from_hf=bad_folder(folder, "missing"))),
        "extra": refusal(folder, "no", make_options(from_hf=bad_folder(folder, "extra"))),
        "misshapen": refusal(folder, "no", make_options(from_hf=bad_folder(folder, "misshapen"))),
        "other model": refusal(
            folder, "no", make_options(model=make_model(num_layers=3), from_=StageRef("first")), first=first
        ),
        "no such checkpoint": refusal(folder, "no", make_options(from_=StageRef("first", "step-9")), first=first),
        "small vocabulary": refusal(folder, "no", make_options(model=make_model(vocab_size=63))),
        "group of none": refusal(folder, "no", make_options(optimizer=Use(ADAM, AdamOptions(pattern="attention")))),
        "trajectory": refusal(folder, "no", make_options(steps=13, **carry), first=first),
        "processes": refusal(
            folder, "no", make_options(parallelism=ParallelismOptions(data_parallel=2), micro_batch=2)
        ),
        "diverged": refusal(
            folder, "diverged", make_options(checkpoint_every=1, optimizer=Use(ADAM, AdamOptions(lr=1e30)))
        ),
    }
    results["refused"]["short"] = refusal(folder, "no", make_options(model=make_model(SHORT)))
    broken = make_options(steps=1, optimizer=Use(ADAM, AdamOptions(breaks=True)))
    results["refused"]["broken by its last step"] = refusal(folder, "broken", broken)
    results["transformers"] = compare_with_transformers(folder)
    results["initial"] = initial_weights()
    results["labels"] = labels()
    return results


def bad_folder(folder: Path, what: str) -> Path:
    from safetensors.torch import load_file, save_file

    bad = folder / f"bad-{what}"
    shutil.copytree(folder / "first" / "model", bad)
    weights = load_file(bad / "model.safetensors")
    if what == "missing":
        del weights["model.layers.1.self_attn.k_proj.weight"]
    elif what == "extra":
        weights["model.layers.0.self_attn.q_norm.weight"] = weights["model.norm.weight"].clone()
    else:
        weights["model.norm.weight"] = weights["model.norm.weight"][:16].clone()
    save_file(weights, bad / "model.safetensors")
    return bad


def train_with_masks(folder: Path) -> dict[str, Any]:
    """A stage whose attention wants document masks, and counts how often it is asked to make one."""
    from dataclasses import dataclass

    import torch
    from torchtitan.protocols.module import Module

    from smolrecipe_torchtitan.decoder import CausalAttention

    masks: list[tuple[int, ...]] = []

    class Documents(CausalAttention):
        sees_documents = True

        @dataclass(kw_only=True, slots=True)
        class Config(CausalAttention.Config):
            pass

        def build_mask(self, positions: torch.Tensor) -> torch.Tensor:
            masks.append(tuple(positions.shape))
            document = (positions == 0).cumsum(1)
            return ((document[:, :, None] == document[:, None, :]).tril())[:, None]

    def apply(draft: ModelDraft, options: Any) -> None:
        inner: Module.Config = Documents.Config()
        for layer in draft.decoder.layers:
            layer.attention.inner_attention = inner

    component = ModelComponent(name="documents", summary="", apply=apply, to_hf=lambda config, options: None)
    result = train(folder, "masked", make_options(model=make_model(component), steps=2, held_out_rows=4))
    return {**result, "masks": masks}


def compare_with_transformers(folder: Path) -> dict[str, Any]:
    """The exported checkpoints in plain transformers: logits, and the held-out loss computed by hand."""
    import torch
    import torch.distributed.checkpoint as dcp
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from smolrecipe_torchtitan.assemble import draft_model

    first = folder / "first"
    exported = AutoModelForCausalLM.from_pretrained(first / "model", dtype=torch.float32)
    ours = draft_model(make_options()).decoder.build()
    ours.init_states()
    state = ours.state_dict()
    dcp.load(state, checkpoint_id=first / "checkpoints" / f"step-{STEPS}", no_dist=True)
    ours.load_state_dict(state)
    tokens = torch.from_numpy(np.random.default_rng(0).integers(0, VOCABULARY, (3, LENGTH)))
    with torch.no_grad():
        difference = (exported(tokens, use_cache=False).logits - ours(tokens)).abs().max().item()
        total, count = 0.0, 0
        for row in Rows(LENGTH, 3, 0).held_out(7):
            logits = exported(torch.from_numpy(row.tokens[None, :-1]), use_cache=False).logits[0].double()
            surprise = -logits.log_softmax(-1)[torch.arange(LENGTH), torch.from_numpy(row.tokens[1:])]
            # The token after the end of a document (1) starts another.
            kept = torch.from_numpy(row.tokens[:-1] != 1)
            total, count = total + surprise[kept].sum().item(), count + int(kept.sum())
    longer = AutoModelForCausalLM.from_pretrained(folder / "longer" / "model")
    tokenizer = AutoTokenizer.from_pretrained(first / "model")
    return {
        "class": type(exported).__name__,
        "logits differ by": difference,
        "held-out loss": total / count,
        "generated": exported.generate(tokens[:1, :4], max_new_tokens=3, do_sample=False).shape[1],
        "eos": [exported.config.eos_token_id, exported.generation_config.eos_token_id, tokenizer.eos_token_id],
        "longer": [
            longer.config.rope_parameters["rope_theta"],
            longer.config.max_position_embeddings,
            str(longer.config.dtype),
        ],
    }


def initial_weights() -> dict[str, float]:
    """Standard deviations at the start, over all layers of a model wide enough to measure them."""
    import torch

    from smolrecipe_torchtitan.assemble import draft_model

    model = draft_model(
        make_options(model=make_model(hidden_size=128, intermediate_size=512, num_layers=8, tie_embeddings=False))
    ).decoder.build()
    model.init_states()
    found: dict[str, list[torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        found.setdefault(name.split(".")[-2], []).append(parameter.detach().flatten())
    return {name: torch.cat(values).std().item() for name, values in found.items()}


def labels() -> list[list[int]]:
    """Labels of a row whose second document starts at position 2, and of one whose last label starts a document."""
    from smolrecipe_torchtitan.samples import labels_of

    tokens = np.array([7, 1, 8, 9, 1, 5])
    positions = np.array([0, 1, 0, 1, 2])
    return [
        labels_of(TokenRow(tokens, positions)).tolist(),
        labels_of(TokenRow(tokens, positions, last_starts_document=True)).tolist(),
    ]


def job_cut(folder: Path) -> dict[str, Any]:
    """Train like ``first``, and be killed in step 8."""

    def kill(event: Mapping[str, Any]) -> None:
        if event["step"] == 8:
            os.kill(os.getpid(), signal.SIGKILL)

    return train(folder, "cut", make_options(checkpoint_every=2), kill)


def job_resume(folder: Path) -> dict[str, Any]:
    """Go on with what ``job_cut`` left, and with copies of it whose last whole checkpoint was damaged."""
    results = {}
    for name, damage in (("flipped", flip_bit), ("shortened", shorten)):
        shutil.copytree(folder / "cut", folder / name)
        damage(last_sealed(folder / name) / "__0_0.distcp")
        results[name] = train(folder, name, make_options(checkpoint_every=2))
    results["cut"] = train(folder, "cut", make_options(checkpoint_every=2))
    results["again"] = train(folder, "cut", make_options(checkpoint_every=2))
    return results


def last_sealed(folder: Path) -> Path:
    sealed = [path.parent for path in (folder / "checkpoints").glob("step-*/checksums-0.json")]
    return max(sealed, key=lambda path: int(path.name.removeprefix("step-")))


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def shorten(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def job_together(folder: Path) -> dict[str, Any]:
    """Two processes that share the work in every way there is.

    Each layout once: torch keeps device meshes, so one process cannot set up the same layout a second time.
    """

    def split(name: str, model: Model | None = None, **degrees: int) -> dict[str, Any]:
        options = make_options(steps=4, micro_batch=2, parallelism=ParallelismOptions(**degrees))
        return train(folder, name, evolve(options, model=model or options.model))

    fsdp, ddp = ParallelismOptions(data_parallel=2), ParallelismOptions(replicas=2)
    return {
        "fsdp": train(folder, "fsdp", make_options(micro_batch=2, parallelism=fsdp)),
        "resumed": train(folder, "cut-two", make_options(micro_batch=1, checkpoint_every=2, parallelism=ddp)),
        "tensor": split("tensor", tensor_parallel=2),
        "context": split("context", context_parallel=2),
        "pipeline": split("pipeline", make_model(tie_embeddings=False), pipeline_parallel=2),
    }


JOBS = {"alone": job_alone, "cut": job_cut, "resume": job_resume, "together": job_together}


if __name__ == "__main__":
    job_folder = Path(sys.argv[2])
    outcome = JOBS[sys.argv[1]](job_folder)
    (job_folder / f"{sys.argv[1]}-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(outcome))
    sys.exit(0)


# --- tests of what trained --------------------------------------------------------------------------------------------


def start(job: str, folder: Path, **environment: str) -> subprocess.Popen[str]:
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [sys.executable, __file__, job, str(folder)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> None:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == code, output[-6000:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("titan")
    write_tokenizer(folder / "tokenizer" / "tokenizer")
    return folder


@pytest.fixture(scope="module")
def alone(folder: Path, cut: None) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((folder / "alone-0.json").read_text())
    return results


@pytest.fixture(scope="module")
def cut(folder: Path) -> None:
    """Both first processes at once: the machine has two cores and each trains on one."""
    processes = [start("alone", folder), start("cut", folder)]
    finish(processes[1], code=-signal.SIGKILL)
    shutil.copytree(folder / "cut", folder / "cut-two")
    finish(processes[0])


@pytest.fixture(scope="module")
def resumed(folder: Path, cut: None) -> dict[str, Any]:
    finish(start("resume", folder))
    results: dict[str, Any] = json.loads((folder / "resume-0.json").read_text())
    return results


@pytest.fixture(scope="module")
def together(folder: Path, cut: None) -> list[dict[str, Any]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port % 60000 + 1024)}
    processes = [start("together", folder, RANK=str(rank), LOCAL_RANK=str(rank), **world) for rank in range(2)]
    for process in processes:
        finish(process)
    return [json.loads((folder / f"together-{rank}.json").read_text()) for rank in range(2)]


def losses(result: Mapping[str, Any]) -> list[float]:
    return [event["loss"] for event in result["steps"]]


def weights(folder: Path, name: str) -> bytes:
    return (folder / name / "model" / "model.safetensors").read_bytes()


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
        ("other model", ["lacks layers.2.attention.qkv_linear.wk.weight", "and 4 more"]),
        ("no such checkpoint", ["'step-9'", "'step-12'"]),
        ("small vocabulary", ["64 tokens", "63"]),
        ("group of none", ["is in no group of the optimizer", "such as '.'"]),
        ("trajectory", ["trajectory_steps (24)", "13 to 25"]),
        ("processes", ["2 processes and 1 run"]),
        ("diverged", ["in step 2", "Lower the learning rate"]),
        ("broken by its last step", ["the held-out loss is nan in step 1"]),
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


def test_killed_and_resumed_is_bitwise_the_same(resumed: dict[str, Any], alone: dict[str, Any], folder: Path) -> None:
    steps = [event["step"] for event in resumed["cut"]["steps"]]
    assert steps[0] in (3, 5, 7)  # a checkpoint every second step, the last of which may not have been finished
    assert steps[-1] == STEPS
    assert resumed["cut"]["read"] == alone["first"]["read"][(steps[0] - 1) * BATCH :]
    assert weights(folder, "cut") == weights(folder, "first")
    assert resumed["cut"]["before"] == alone["first"]["before"]
    assert resumed["cut"]["after"] == alone["first"]["after"]
    checkpoint = f"checkpoints/step-{STEPS}/__0_0.distcp"
    assert (folder / "cut" / checkpoint).read_bytes() == (folder / "first" / checkpoint).read_bytes()


def test_a_finished_stage_run_again_trains_no_further(resumed: dict[str, Any]) -> None:
    assert resumed["again"]["steps"] == []
    assert resumed["again"]["after"] == resumed["cut"]["after"]


@pytest.mark.parametrize("case", ["flipped", "shortened"])
def test_a_damaged_checkpoint_is_not_resumed_from(
    resumed: dict[str, Any], alone: dict[str, Any], folder: Path, case: str
) -> None:
    assert any("damaged" in sentence for sentence in resumed[case]["said"])
    assert resumed[case]["steps"][0]["step"] < resumed["cut"]["steps"][0]["step"]
    assert weights(folder, case) == weights(folder, "first")


def test_two_processes_compute_what_one_does(together: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    # Sums are taken in another order, and twelve steps at a large rate carry the difference on.
    assert losses(together[0]["fsdp"]) == pytest.approx(losses(alone["first"]), abs=1e-4)
    assert together[0]["fsdp"]["before"] == pytest.approx(alone["first"]["before"], abs=1e-5)
    assert together[0]["fsdp"]["after"] == pytest.approx(alone["first"]["after"], abs=1e-4)
    for name, reference in (("tensor", "first"), ("context", "first"), ("pipeline", "private")):
        assert losses(together[0][name]) == pytest.approx(losses(alone[reference])[:4], abs=1e-4), name
        assert together[0][name]["before"] == pytest.approx(alone[reference]["before"], abs=1e-5), name
    assert together[1]["fsdp"]["steps"] == []  # the first process reports for all


def test_the_samples_do_not_depend_on_the_number_of_processes(
    together: list[dict[str, Any]], alone: dict[str, Any], folder: Path
) -> None:
    assert alone["first"]["read"] == list(range(STEPS * BATCH))
    assert batches(together, "fsdp", first=0) == [set(range(n * BATCH, (n + 1) * BATCH)) for n in range(STEPS)]
    # Interrupted as one process and resumed as two, with other micro-batches.
    done = together[0]["resumed"]["steps"][0]["step"] - 1
    assert done in (2, 4, 6)
    assert batches(together, "resumed", first=done) == [
        set(range(n * BATCH, (n + 1) * BATCH)) for n in range(done, STEPS)
    ]
    assert losses(together[0]["resumed"]) == pytest.approx(losses(alone["first"])[done:], abs=1e-4)


def batches(results: list[dict[str, Any]], name: str, first: int) -> list[set[int]]:
    """The samples of every step, over all processes; each must have read its own half."""
    reads = [result[name]["read"] for result in results]
    half = BATCH // 2
    assert {len(read) for read in reads} == {(STEPS - first) * half}
    steps = [[set(read[n * half : (n + 1) * half]) for read in reads] for n in range(STEPS - first)]
    assert all(not (one & other) for one, other in steps)
    return [one | other for one, other in steps]


def test_pipelines_export_too(together: list[dict[str, Any]], folder: Path) -> None:
    from safetensors import safe_open

    with safe_open(folder / "pipeline" / "model" / "model.safetensors", framework="numpy") as file:
        names = set(file.keys())
    assert {"model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight", "lm_head.weight"} <= names
    assert len(names) == 3 + 2 * 9


# --- tests of what can be known before -------------------------------------------------------------------------------


def write_tokenizer(folder: Path) -> None:
    """A word-level tokenizer of the made-up vocabulary, as AutoTokenizer loads it."""
    folder.mkdir(parents=True)
    vocabulary = {"<pad>": 0, "<eos>": 1, **{f"w{number}": number for number in range(2, VOCABULARY)}}
    content = {
        "version": "1.0",
        "added_tokens": [],
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<pad>"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(content))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<eos>",
        "pad_token": {"__type": "AddedToken", "content": "<pad>"},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


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
        ({"from_": StageRef("a"), "from_hf": Path("b")}, "both say where the weights come from"),
        ({"from_hf": Path("nowhere")}, "it has no config.json"),
        ({"trajectory_steps": 5}, "trajectory_steps (5) is less than steps (12)"),
        (
            {"parallelism": PIPELINE(pipeline_microbatch=3), "model": make_model(tie_embeddings=False)},
            "micro_batch (4) is not a multiple of pipeline_microbatch (3)",
        ),
        (
            {"parallelism": ParallelismOptions(pipeline_parallel=8), "model": make_model(tie_embeddings=False)},
            "is more than 2 layers can be spread over",
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
    config = compose_hf_config(make_model(num_layers=3))
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
