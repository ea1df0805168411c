"""Runs pretraining stages in many parallel layouts: the script that ``test_parallelism.py`` starts.

``python layouts.py FOLDER`` does the jobs listed in ``FOLDER/jobs.json`` and leaves what each of their processes saw
in ``FOLDER/results/<job>-<rank>.json``, and what it printed beside that. The recipe is ``layouts.yaml``. Importing
torchtitan takes seconds, and no process can set up a layout twice; so everything is imported once here, and each
process of each job is a fork of this one.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from attrs import define, evolve, field, frozen

from smolrecipe import StageContext, TokenRow, TokenRows, Use
from smolrecipe.recipe.compose import compose
from smolrecipe.recipe.structure import structure
from smolrecipe.stage import die_with_parent
from smolrecipe_registry.discovery import load_registry
from smolrecipe_torchtitan.device import use_device

use_device("cpu")  # before torchtitan's other modules are imported

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from torch.distributed.fsdp import FSDPModule  # noqa: E402

import smolrecipe_torchtitan.pretrain  # noqa: E402, F401
from smolrecipe_docmask import documentwise  # noqa: E402
from smolrecipe_torchtitan import assemble, decoder, held_out, samples  # noqa: E402

documentwise.LONGEST_MASKED = 0
"""The rows here are short, and attend document by document as long ones do. Context parallelism has the mask."""

MOST_PROCESSES = 4
"""How many train at once. They often wait for each other: four keep two cores busy."""

PATIENCE = 120
"""Seconds that a job may take."""


@frozen(kw_only=True)
class Job:
    """One stage in one layout.

    ``settings`` are laid over the recipe, as by ``--set``. The first process of a job that ``dies_in_step`` kills
    itself there, once the checkpoint of ``dies_after`` is whole. A job that ``resumes`` another starts with a copy of
    what that has left; one that ``follows`` another is the stage after it. ``bug`` is a mistake of ``BUGS`` to make.
    """

    name: str
    stage: str = "pretrain"
    settings: Sequence[str] = ()
    dies_in_step: int | None = None
    dies_after: int | None = None
    resumes: str | None = None
    follows: str | None = None
    bug: str | None = None


@define
class WatchedRows:
    """Rows that note which of them were asked for, and a checksum of what they were."""

    rows: TokenRows
    read: list[tuple[int, int]] = field(factory=list)

    def row(self, sample: int) -> TokenRow:
        row = self.rows.row(sample)
        self.read.append((sample, zlib.crc32(row.tokens.tobytes() + row.positions.tobytes())))
        return row

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rows, name)


# --- mistakes that the comparison must find ---------------------------------------------------------------------------


def mask_of_own_positions() -> None:
    """Context parallelism: take the documents of the own slice of a row for those of every slice."""

    def build_mask(self: Any, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        layer: Any = next(iter(self.layers.values()))
        length = positions.shape[1]
        first = dist.get_rank(self.context_group) * length
        everywhere = positions.repeat(1, dist.get_world_size(self.context_group))
        return layer.attention.inner_attention.build_mask(everywhere)[..., first : first + length, :]

    decoder.RecipeDecoder._build_mask = build_mask


def no_positions_behind_the_first_stage() -> None:
    """Pipelines: give positions to the process that gets the tokens, and to no other."""
    forward = decoder.RecipeDecoder.forward

    def forget(self: Any, tokens: torch.Tensor, positions: Any = None, attention_masks: Any = None) -> torch.Tensor:
        return forward(self, tokens, None if tokens.is_floating_point() else positions, attention_masks)

    decoder.RecipeDecoder.forward = forget


def gradients_averaged() -> None:
    """Data parallelism: average gradients that are shares of a sum. Clipping and Adam hide it from the loss."""
    parallelize = assemble.parallelize

    def parallelize_and_divide(*args: Any, **kwargs: Any) -> Any:
        model = parallelize(*args, **kwargs)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(2.0)
        return model

    assemble.parallelize = parallelize_and_divide


def shards_drawn_one_by_one() -> None:
    """Initial weights: leave them as torchtitan draws them, each process its own part."""
    decoder._fill = lambda parameter, initialize, seed: None


def tied_matrix_shared_twice() -> None:
    """Tied embeddings: leave them as torchtitan shares them, so that FSDP2 reads a copy that nothing trains."""
    del decoder.RecipeDecoder.parallelize


def samples_read_twice() -> None:
    """Data parallelism: let every process read the first one's samples."""
    build = samples.SampleLoader.__init__

    def as_first(self: Any, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        self.process = 0

    samples.SampleLoader.__init__ = as_first


def filling_counted() -> None:
    """Held-out loss: count the rows that fill up the last batch."""

    def batch(rows: Any, start: int, size: int, restart_positions: bool) -> Any:
        chosen = [rows[min(number, len(rows) - 1)] for number in range(start, start + size)]
        return samples.collate(chosen, restart_positions=restart_positions)

    held_out._batch = batch


BUGS: Mapping[str, Callable[[], None]] = {
    mistake.__name__: mistake
    for mistake in (
        mask_of_own_positions,
        no_positions_behind_the_first_stage,
        gradients_averaged,
        shards_drawn_one_by_one,
        tied_matrix_shared_twice,
        samples_read_twice,
        filling_counted,
    )
}


# --- one process of a job ---------------------------------------------------------------------------------------------


def work(job: Job, use: Use[Any], folder: Path, rank: int, processes: int, port: int) -> None:
    """Be process ``rank`` of a job, to the end."""
    die_with_parent()
    output = os.open(folder / "results" / f"{job.name}-{rank}.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    if job.bug is not None:
        BUGS[job.bug]()
    try:
        result = train(job, use, folder, rank, processes)
        (folder / "results" / f"{job.name}-{rank}.json").write_text(json.dumps(result))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def train(job: Job, use: Use[Any], folder: Path, rank: int, processes: int) -> dict[str, Any]:
    """Run the stage, and return what it reported and read."""
    options = use.options
    packer = options.data.component
    events: list[Mapping[str, Any]] = []
    watched: list[WatchedRows] = []

    def report(event: Mapping[str, Any]) -> None:
        events.append(event)
        if "step" in event and event["step"] == job.dies_in_step:
            checkpoint = folder / job.name / "checkpoints" / f"step-{job.dies_after}"
            await_file(checkpoint / "checkpoint.json")
            os.kill(os.getpid(), signal.SIGKILL)

    def open_watched(*args: Any) -> Any:
        watched.append(WatchedRows(packer.open(*args)))
        return watched[0]

    context = StageContext(
        recipe="layouts",
        stage=job.stage,
        folder=folder / job.name,
        inputs={
            "tokenizer": folder / "inputs",
            "tokens": folder / "inputs",
            **({} if job.follows is None else {"pretrain": folder / job.follows}),
        },
        rank=rank,
        world_size=processes,
        report=report,
    )
    data = Use(evolve(packer, open=open_watched), options.data.options)
    artifact = use.component.run(evolve(options, data=data), context)
    (measure,) = artifact.measures
    return {
        "steps": [event for event in events if "step" in event],
        "said": [event["message"] for event in events if "message" in event],
        "read": watched[0].read,
        "before": measure.before,
        "after": measure.after,
    }


def await_file(path: Path) -> None:
    end = time.monotonic() + PATIENCE
    while not path.exists():
        if time.monotonic() > end:
            raise TimeoutError(f"{path} did not appear")
        time.sleep(0.01)


# --- all jobs ---------------------------------------------------------------------------------------------------------


@define
class Running:
    """A job at work."""

    job: Job
    processes: list[BaseProcess]
    started: float = field(factory=time.monotonic)

    def is_over(self) -> bool:
        """Whether all processes have ended. Where one has failed, the others are ended: they would wait for it."""
        late = time.monotonic() > self.started + PATIENCE
        if late or any(process.exitcode not in (None, 0) for process in self.processes):
            for process in self.processes:
                process.kill()
        return all(process.exitcode is not None for process in self.processes)


def start(job: Job, use: Use[Any], folder: Path) -> Running:
    if job.resumes is None:
        (folder / job.name).mkdir()
    else:
        shutil.copytree(folder / job.resumes, folder / job.name)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    count = use.options.parallelism.processes
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=work, args=(job, use, folder, rank, count, port)) for rank in range(count)]
    for process in processes:
        process.start()
    return Running(job, list(processes))


def run_jobs(jobs: list[Job], uses: Mapping[str, Use[Any]], folder: Path) -> None:
    """Do the jobs, several at once, each after the one that it needs."""
    (folder / "results").mkdir()
    waiting, running, over = list(jobs), list[Running](), set[str | None]({None})
    while waiting or running:
        free = MOST_PROCESSES - sum(len(work.processes) for work in running)
        for job in list(waiting):
            count = uses[job.name].options.parallelism.processes
            if count <= free and {job.resumes, job.follows} <= over:
                waiting.remove(job)
                running.append(start(job, uses[job.name], folder))
                free -= count
        wait([process.sentinel for work in running for process in work.processes if process.exitcode is None], 1)
        for work in [work for work in running if work.is_over()]:
            running.remove(work)
            over.add(work.job.name)
            print(f"{work.job.name}: {time.monotonic() - work.started:.1f} s", flush=True)


def main(folder: Path) -> None:
    die_with_parent()
    jobs = [Job(**job) for job in json.loads((folder / "jobs.json").read_text())]
    recipe, catalog = Path(__file__).with_suffix(".yaml"), load_registry().catalog
    uses = {job.name: structure(compose(recipe, job.settings), recipe, catalog).stages[job.stage] for job in jobs}
    torch.set_num_threads(1)
    assemble.draft_model(uses[jobs[0].name].options)  # imports what the model's components import
    gc.freeze()
    run_jobs(jobs, uses, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
