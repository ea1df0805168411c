"""Every parallel layout trains the same model: losses, gradient norms and weights of one process, on the same samples.

A recipe of the real components, with document masks and NoPE, trains for ten steps in every layout. All computes in
float32, so that layouts differ in nothing but the order in which sums are taken.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import frozen
from safetensors.numpy import load_file

from smolrecipe import RecipeError
from smolrecipe.planning.make import make_plan
from smolrecipe.recipe.compose import compose
from smolrecipe.recipe.structure import structure
from smolrecipe_registry.discovery import Registry, load_registry

STEPS, BATCH, VOCABULARY = 10, 8, 64
KEPT = 5
"""The step whose checkpoint is resumed from."""

BOUND = 1e-5
"""Of differences in losses (2 to 5 nats), weights (0.1) and, relative, gradient norms. Measured are at most 1e-6, 2e-6
and 1e-6. This depends on AdamW's epsilon: it divides by the size of a gradient, so that with 1e-8 an entry whose
gradient is rounding alone moves as far as any other."""

RECIPE = Path(__file__).with_name("layouts.yaml")


# --- layouts ----------------------------------------------------------------------------------------------------------

UNTIED = ["model.decoder.tie_embeddings=false"]
PUBLISHED_EPSILON = ["stages.pretrain.optimizer.eps=1.0e-8"]


def settings(stage: str = "pretrain", micro_batch: int = 4, **options: Any) -> list[str]:
    """Options of a stage; those of its ``parallelism`` by their own names."""
    outside = ("activation_checkpointing", "loss_chunks", "steps", "sequence_length", "global_batch", "optimizer")
    found = [f"stages.{stage}.micro_batch={micro_batch}"]
    for name, value in options.items():
        group = "" if name in outside else "parallelism."
        found.append(f"stages.{stage}.{group}{name}={json.dumps(value)}")
    return found


FSDP = settings(micro_batch=2, data_parallel=2)
CONTEXT = settings(context_parallel=2)
TENSOR = settings(tensor_parallel=2)
PIPELINE = UNTIED + settings(pipeline_parallel=2)

LAYOUTS: Mapping[str, Sequence[str]] = {
    # one process
    "gradients accumulated": settings(micro_batch=1),
    # two
    "FSDP2": FSDP,
    "DDP": settings(micro_batch=2, replicas=2),
    "TP": TENSOR,
    "TP without sequence parallelism": settings(tensor_parallel=2, sequence_parallel=False),
    "CP": CONTEXT,
    "PP": PIPELINE,
    "PP interleaved": UNTIED + settings(pipeline_parallel=2, pipeline_schedule="Interleaved1F1B"),
    "FSDP2, activations computed again": settings(
        micro_batch=2, data_parallel=2, activation_checkpointing="full", reshard_after_forward="always"
    ),
    "TP, some activations computed again": settings(tensor_parallel=2, activation_checkpointing="selective"),
    "CP, loss in chunks": settings(context_parallel=2, loss_chunks=4),
    "PP, loss in chunks": UNTIED + settings(pipeline_parallel=2, pipeline_microbatch=2, loss_chunks=4),
    # four
    "FSDP2 x TP": settings(data_parallel=2, tensor_parallel=2),
    "FSDP2 x CP": settings(data_parallel=2, context_parallel=2),
    "CP x TP": settings(context_parallel=2, tensor_parallel=2),
    "HSDP": settings(micro_batch=2, data_parallel=2, replicas=2),
    "PP x FSDP2": UNTIED + settings(pipeline_parallel=2, data_parallel=2),
    "PP x TP": UNTIED + settings(pipeline_parallel=2, tensor_parallel=2),
    "PP x CP": UNTIED + settings(pipeline_parallel=2, context_parallel=2),
    "PP of four": UNTIED + settings(pipeline_parallel=4),
    "FSDP2 of four": settings(micro_batch=2, data_parallel=4),
}

RESUMED: Mapping[str, tuple[str, Sequence[str]]] = {
    "FSDP2 -> TP": ("cut FSDP2", TENSOR),
    "FSDP2 -> one process": ("cut FSDP2", []),
    "one process -> FSDP2": ("cut", FSDP),
    "one process -> CP": ("cut", CONTEXT),
    "one process -> FSDP2 of four": ("cut", LAYOUTS["FSDP2 of four"]),
    "PP x FSDP2 -> one process": ("cut PP x FSDP2", UNTIED),
    "PP x FSDP2 -> interleaved": ("cut PP x FSDP2", LAYOUTS["PP interleaved"]),
}
"""Layouts that go on with what another has left when it was killed."""

CUT: Mapping[str, Sequence[str]] = {"cut": [], "cut FSDP2": FSDP, "cut PP x FSDP2": LAYOUTS["PP x FSDP2"]}

BUGS: Mapping[str, tuple[Sequence[str], str]] = {
    "mask_of_own_positions": (CONTEXT, "loss"),
    "no_positions_behind_the_first_stage": (PIPELINE, "loss"),
    "gradients_averaged": (FSDP, "gradient norm"),
    "shards_drawn_one_by_one": (TENSOR, "loss"),
    "tied_matrix_shared_twice": (LAYOUTS["FSDP2 of four"], "loss"),
    "samples_read_twice": (FSDP, "samples"),
    "filling_counted": (FSDP, "held-out loss"),
}
"""Mistakes (see ``layouts.py``), with a layout to make them in and where they show."""

JOBS: Sequence[Mapping[str, Any]] = [
    *({"name": name, "settings": CUT[name], "dies_in_step": KEPT + 2, "dies_after": KEPT} for name in CUT),
    {"name": "one process"},
    {"name": "one process, untied", "settings": UNTIED},
    {"name": "one process, published epsilon", "settings": UNTIED + PUBLISHED_EPSILON},
    *({"name": name, "settings": layout} for name, layout in LAYOUTS.items()),
    {"name": "PP x TP, published epsilon", "settings": [*LAYOUTS["PP x TP"], *PUBLISHED_EPSILON]},
    *({"name": name, "settings": layout, "resumes": cut} for name, (cut, layout) in RESUMED.items()),
    *({"name": bug, "settings": layout, "bug": bug} for bug, (layout, _) in BUGS.items()),
    {"name": "first stage", "settings": UNTIED + settings(steps=5)},
    {"name": "first stage, FSDP2", "settings": UNTIED + settings(steps=5, data_parallel=2)},
    {"name": "second stage", "stage": "second", "settings": UNTIED, "follows": "first stage"},
    {
        "name": "second stage, PP",
        "stage": "second",
        "settings": UNTIED + settings("second", pipeline_parallel=2),
        "follows": "first stage, FSDP2",
    },
]


# --- what they start from ---------------------------------------------------------------------------------------------


def write_tokens(folder: Path, seed: int, documents: int, step: int) -> None:
    """A token file as datatrove writes it: documents of 2 to 19 tokens of a made-up sequence, and an end."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    tokens: list[int] = []
    ends: list[int] = []
    for _ in range(documents):
        token = int(random.integers(2, VOCABULARY))
        for _ in range(int(random.integers(2, 20))):
            tokens.append(token)
            token = 2 + (token * 5 + step) % (VOCABULARY - 2)
        tokens.append(1)
        ends.append(len(tokens))
    np.array(tokens, "<u2").tofile(folder / "0.ds")
    np.array(ends, "<i8").tofile(folder / "0.ds.index")
    (folder / "0.ds.metadata").write_text(f"words|2\n{len(tokens)}\n")


def write_inputs(folder: Path) -> None:
    """What the stages ``tokenizer`` and ``tokens`` would have published, with a vocabulary of 64 words."""
    for number, source in enumerate(("ups", "downs")):
        write_tokens(folder / "tokens" / source / "train", seed=number, documents=200, step=7 + 6 * number)
        write_tokens(folder / "tokens" / source / "held_out", seed=10 + number, documents=40, step=7 + 6 * number)
        (folder / "tokens" / source / "source.json").write_text("{}")
    (folder / "tokens" / "tokens.json").write_text(json.dumps({"sha256": "0", "vocab_size": VOCABULARY}))
    words = {"<pad>": 0, "<eos>": 1, **{f"w{number}": number for number in range(2, VOCABULARY)}}
    model = {"type": "WordLevel", "vocab": words, "unk_token": "<pad>"}
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer.json").write_text(json.dumps({"added_tokens": [], "model": model}))
    special = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>", "pad_token": "<pad>"}
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(special))


# --- what they did ----------------------------------------------------------------------------------------------------


@frozen
class Trained:
    """What a job left: per process its report, and the exported weights."""

    name: str
    processes: list[dict[str, Any]]
    weights: dict[str, np.ndarray]

    def series(self, metric: str) -> dict[int, float]:
        """A metric by step."""
        return {event["step"]: event[metric] for event in self.processes[0]["steps"]}

    @property
    def held_out(self) -> tuple[float, float]:
        return self.processes[0]["before"], self.processes[0]["after"]

    def samples(self, step: int) -> list[tuple[int, int]]:
        """The samples of a step in their order, each with a checksum and once for every process that read it."""
        place = step - min(self.series("loss"))
        found = []
        for process in self.processes:
            share = len(process["read"]) // len(self.series("loss"))
            found += process["read"][place * share : (place + 1) * share]
        return sorted(tuple(sample) for sample in found)


class Folder:
    """The folder of all jobs."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def trained(self, name: str) -> Trained:
        results = sorted((self.path / "results").glob(f"{name}-[0-9].json"))
        said = [path.read_text() for path in sorted((self.path / "results").glob(f"{name}-[0-9].txt"))]
        assert results and len(results) == len(said), "\n".join(text[-3000:] for text in said)
        weights = load_file(self.path / name / "model" / "model.safetensors")
        return Trained(name, [json.loads(path.read_text()) for path in results], weights)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """All jobs done, by one process that forks: they are many, and each would import torchtitan again."""
    path = tmp_path_factory.mktemp("layouts")
    write_inputs(path / "inputs")
    (path / "jobs.json").write_text(json.dumps(JOBS))
    result = subprocess.run(
        [sys.executable, str(RECIPE.with_suffix(".py")), str(path)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr[-6000:]
    print(result.stdout)
    return Folder(path)


def differences(one: Trained, other: Trained) -> dict[str, float]:
    """The largest difference in everything compared, over the steps that ``other`` made."""
    steps = list(other.series("loss"))
    assert set(steps) <= set(one.series("loss"))
    norms, other_norms = one.series("grad_norm"), other.series("grad_norm")
    return {
        "loss": max(abs(one.series("loss")[step] - other.series("loss")[step]) for step in steps),
        "gradient norm": max(abs(norms[step] - other_norms[step]) / norms[step] for step in steps),
        "held-out loss": max(abs(a - b) for a, b in zip(one.held_out, other.held_out, strict=True)),
        "weights": max(float(np.abs(one.weights[name] - other.weights[name]).max()) for name in one.weights),
        "samples": sum(one.samples(step) != sorted(set(other.samples(step))) for step in steps),
    }


def reference(folder: Folder, layout: Sequence[str]) -> Trained:
    return folder.trained("one process, untied" if UNTIED[0] in layout else "one process")


# --- tests of what trained --------------------------------------------------------------------------------------------


def test_one_process_learns_and_reads_every_sample_once(folder: Folder) -> None:
    for name in ("one process", "one process, untied"):
        one = folder.trained(name)
        assert list(one.series("loss")) == list(range(1, STEPS + 1))
        assert one.held_out[1] < one.held_out[0] - 1
        for step in range(1, STEPS + 1):
            assert [number for number, _ in one.samples(step)] == list(range((step - 1) * BATCH, step * BATCH))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_computes_what_one_process_does(folder: Folder, layout: str) -> None:
    trained = folder.trained(layout)
    assert list(trained.series("loss")) == list(range(1, STEPS + 1))
    found = differences(reference(folder, LAYOUTS[layout]), trained)
    print(layout, found)
    assert found.pop("samples") == 0
    assert max(found.values()) < BOUND, found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_processes_that_share_no_sample_read_different_ones(folder: Folder, layout: str) -> None:
    trained = folder.trained(layout)
    degrees = dict(setting.rpartition(".")[2].split("=") for setting in LAYOUTS[layout])
    readers = int(degrees.get("data_parallel", 1)) * int(degrees.get("replicas", 1))
    for step in range(1, STEPS + 1):
        assert len(trained.samples(step)) == BATCH * len(trained.processes) // readers


def test_differences_stay_small_with_the_published_epsilon(folder: Folder) -> None:
    found = differences(folder.trained("one process, published epsilon"), folder.trained("PP x TP, published epsilon"))
    print(found)
    weights = found.pop("weights")
    assert found.pop("samples") == 0
    assert max(found.values()) < 1e-4, found
    assert weights < 2e-3  # a few entries, of 0.1: see BOUND


@pytest.mark.parametrize("change", RESUMED)
def test_a_layout_goes_on_where_another_was_killed(folder: Folder, change: str) -> None:
    resumed = folder.trained(change)
    assert f"goes on after step {KEPT}, from its last whole checkpoint" in resumed.processes[0]["said"]
    assert list(resumed.series("loss")) == list(range(KEPT + 1, STEPS + 1))
    found = differences(reference(folder, RESUMED[change][1]), resumed)
    print(change, found)
    assert found.pop("samples") == 0
    assert max(found.values()) < BOUND, found


def test_a_stage_continues_one_of_another_layout(folder: Folder) -> None:
    found = differences(folder.trained("second stage"), folder.trained("second stage, PP"))
    print(found)
    assert found.pop("samples") == 0
    assert max(found.values()) < BOUND, found


@pytest.mark.parametrize("bug", BUGS)
def test_mistakes_show(folder: Folder, bug: str) -> None:
    layout, where = BUGS[bug]
    found = differences(reference(folder, layout), folder.trained(bug))
    print(bug, found)
    assert found[where] > 100 * BOUND


# --- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_registry()


def problems(registry: Registry, changes: Sequence[str]) -> str:
    """What a plan of the recipe says against these settings."""
    try:
        recipe = structure(compose(RECIPE, changes), RECIPE, registry.catalog)
        make_plan(recipe, registry.catalog, registry.manager.hook)
    except RecipeError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_that_train_are_planned(registry: Registry, layout: str) -> None:
    assert problems(registry, LAYOUTS[layout]) == ""


@pytest.mark.parametrize(
    ("changes", "reason", "alternative"),
    [
        (
            settings(pipeline_parallel=2),
            "tied embeddings cannot be split over a pipeline",
            "set tie_embeddings: false, or use tensor_parallel or data_parallel instead of pipeline_parallel 2",
        ),
        (
            ["model.docmask.backend=varlen", *settings(device="cuda", context_parallel=2)],
            "'docmask' with backend: varlen cannot split a sequence over 2 devices",
            "use backend: auto or flex, or context_parallel: 1",
        ),
        (
            ["model.docmask.backend=flash", *settings(device="cuda", context_parallel=2)],
            "'docmask' with backend: flash cannot split a sequence over 2 devices",
            "use backend: auto or flex, or context_parallel: 1",
        ),
        (
            settings(tensor_parallel=4),
            "2 key and value heads cannot be shared evenly by tensor_parallel 4",
            "choose a degree that divides them",
        ),
        (
            settings(context_parallel=2, sequence_length=30),
            "sequence_length (30) is not a multiple of 4",
            "which tensor_parallel 1 and context_parallel 2 need",
        ),
        (
            settings(tensor_parallel=2, sequence_length=31),
            "sequence_length (31) is not a multiple of 2",
            "which tensor_parallel 2 and context_parallel 1 need",
        ),
        (
            settings(data_parallel=4),
            "global_batch (8) is not a multiple of 16",
            "micro_batch (4) times the 4 processes that read different samples",
        ),
    ],
)
def test_a_plan_refuses_what_cannot_be_split(
    registry: Registry, changes: Sequence[str], reason: str, alternative: str
) -> None:
    said = problems(registry, changes)
    assert reason in said
    assert alternative in said
