"""The trainings that the tests of pretraining look at, and the script that runs them.

torchtitan takes over a process (its device, its process group), so everything that trains runs in processes of its own:
``python titan_jobs.py JOB FOLDER``. A few processes do many runs each, because starting one takes seconds; all tests
of one session share them.
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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import evolve
from titan_toys import (
    ADAM,
    BATCH,
    DOCUMENTS,
    FASTER,
    LENGTH,
    MASKS,
    PRIVATE,
    SHORT,
    STEPS,
    VOCABULARY,
    AdamOptions,
    Rows,
    make_model,
    make_options,
    refusal,
    train,
    write_tokenizer,
)

from smolrecipe import Model, StageRef, TokenRow, Use
from smolrecipe_torchtitan import ParallelismOptions


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
        "imported": train(
            folder, "imported", make_options(steps=1, from_=StageRef("base")), base=artifact_of(folder, "whole")
        ),
        "private": train(folder, "private", make_options(model=make_model(PRIVATE, tie_embeddings=False), steps=4)),
        "masked": train_with_masks(folder),
    }
    results["refused"] = {
        **{
            what: refusal(folder, "no", make_options(from_=StageRef("base")), base=artifact_of(folder, what))
            for what in ("missing", "extra", "misshapen")
        },
        "nothing to carry": refusal(
            folder, "no", make_options(from_=StageRef("base"), carry="everything"), base=folder / "whole"
        ),
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
    for what, value in (("no numbers", math.nan), ("too large", 1e30)):
        broken = make_options(steps=1, optimizer=Use(ADAM, AdamOptions(breaks=value)))
        results["refused"][f"{what} by its last step"] = refusal(folder, "broken", broken)
    results["transformers"] = compare_with_transformers(folder)
    results["initial"] = initial_weights()
    results["labels"] = labels()
    results["first loss"] = first_loss()
    return results


def artifact_of(folder: Path, what: str) -> Path:
    """An artifact with a Hugging Face checkpoint alone, as a model from outside the recipe has; whole or damaged."""
    from safetensors.torch import load_file, save_file

    artifact = folder / what
    model = artifact / "model"
    shutil.copytree(folder / "first" / "model", model)
    if what == "whole":
        return artifact
    weights = load_file(model / "model.safetensors")
    if what == "missing":
        del weights["model.layers.1.self_attn.k_proj.weight"]
    elif what == "extra":
        weights["model.layers.0.self_attn.q_norm.weight"] = weights["model.norm.weight"].clone()
    else:
        weights["model.norm.weight"] = weights["model.norm.weight"][:16].clone()
    save_file(weights, model / "model.safetensors")
    return artifact


def train_with_masks(folder: Path) -> dict[str, Any]:
    """A stage whose attention wants document masks."""
    MASKS.clear()
    options = make_options(model=make_model(DOCUMENTS), steps=2, held_out_rows=4)
    return {**train(folder, "masked", options), "masks": list(MASKS)}


def compare_with_transformers(folder: Path) -> dict[str, Any]:
    """The exported checkpoints in plain transformers: logits, and the held-out loss computed by hand."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from smolrecipe_torchtitan.assemble import draft_model
    from smolrecipe_torchtitan.sealed import read_tensors

    first = folder / "first"
    exported = AutoModelForCausalLM.from_pretrained(first / "model", dtype=torch.float32)
    ours = draft_model(make_options()).decoder.build()
    ours.init_states()
    ours.load_state_dict(read_tensors(first / "checkpoints" / f"step-{STEPS}", ours.state_dict()))
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


def first_loss() -> float:
    """The loss of the first global batch under the initial weights, token by token in double precision."""
    import torch

    from smolrecipe_torchtitan.assemble import draft_model

    config = draft_model(make_options()).decoder
    config.init_seed = make_options().seed
    model = config.build()
    model.init_states()
    total, count = 0.0, 0
    for sample in range(BATCH):
        row = Rows(LENGTH, 3, 0).row(sample)
        with torch.no_grad():
            surprise = -model(torch.from_numpy(row.tokens[None, :-1]))[0].double().log_softmax(-1)
        for place in range(LENGTH):
            if row.tokens[place] != 1:  # what follows the end of a document (1) starts another
                total, count = total + surprise[place, row.tokens[place + 1]].item(), count + 1
    return total / count


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
        if event.get("step") == 8:
            os.kill(os.getpid(), signal.SIGKILL)

    return train(folder, "cut", make_options(checkpoint_every=2), kill)


def job_resume(folder: Path) -> dict[str, Any]:
    """Go on with what ``job_cut`` left, and with copies of it whose last whole checkpoint was damaged."""
    results = {}
    for name, damage in (("flipped", flip_bit), ("shortened", shorten)):
        shutil.copytree(folder / "cut", folder / name)
        damage(last_sealed(folder / name) / "process-0.safetensors")
        results[name] = train(folder, name, make_options(checkpoint_every=2))
    results["cut"] = train(folder, "cut", make_options(checkpoint_every=2))
    results["again"] = train(folder, "cut", make_options(checkpoint_every=2))
    return results


def last_sealed(folder: Path) -> Path:
    sealed = [path.parent for path in (folder / "checkpoints").glob("step-*/checkpoint.json")]
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


def read(folder: Path, job: str, rank: int = 0) -> dict[str, Any]:
    """What a job has told."""
    results: dict[str, Any] = json.loads((folder / f"{job}-{rank}.json").read_text())
    return results


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the stages lie that two first processes trained, at once: the machine has two cores."""
    folder = tmp_path_factory.mktemp("titan")
    write_tokenizer(folder / "tokenizer" / "tokenizer")
    processes = [start("alone", folder), start("cut", folder)]
    finish(processes[1], code=-signal.SIGKILL)
    shutil.copytree(folder / "cut", folder / "cut-two")
    finish(processes[0])
    return folder


@pytest.fixture(scope="session")
def alone(folder: Path) -> dict[str, Any]:
    """What one uninterrupted process showed."""
    return read(folder, "alone")


@pytest.fixture(scope="session")
def resumed(folder: Path) -> dict[str, Any]:
    """What became of stages that were killed."""
    finish(start("resume", folder))
    return read(folder, "resume")


@pytest.fixture(scope="session")
def together(folder: Path) -> list[dict[str, Any]]:
    """What two processes made of the work of one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port % 60000 + 1024)}
    processes = [start("together", folder, RANK=str(rank), LOCAL_RANK=str(rank), **world) for rank in range(2)]
    for process in processes:
        finish(process)
    return [read(folder, "together", rank) for rank in range(2)]


if __name__ == "__main__":
    job_folder = Path(sys.argv[2])
    outcome = JOBS[sys.argv[1]](job_folder)
    (job_folder / f"{sys.argv[1]}-{os.environ.get('RANK', '0')}.json").write_text(json.dumps(outcome))
    sys.exit(0)
