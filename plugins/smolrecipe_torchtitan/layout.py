"""A stage's layout without its weights: what the first device would hold and compute.

torchtitan's own trainer builds the layout, on a process group that pretends to have all processes. Its weights are fake
tensors (shapes without content), and one micro-batch goes forward and backward and one optimizer step is made on them
while every storage is watched. So the engine itself says what is sharded, gathered, kept and freed.
"""

from __future__ import annotations

import gc
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch  # noqa: TID253
import torch.distributed as dist  # noqa: TID253
import torch.distributed._tools.fake_collectives  # noqa: TID253  (collectives on fake tensors)
from attrs import evolve, frozen
from torch import nn  # noqa: TID253
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: TID253
from torch.distributed.tensor.debug import _clear_sharding_prop_cache  # noqa: TID253
from torch.utils._pytree import tree_leaves  # noqa: TID253
from torchtitan.config import CommConfig  # noqa: TID253

from smolrecipe import DryRun, StageContext, StageError, TokenRows
from smolrecipe_torchtitan.assemble import DraftedModel, draft_model, parallelize, trainer_config
from smolrecipe_torchtitan.gpu_kernels import kernels_of_a_gpu
from smolrecipe_torchtitan.live_memory import LiveMemory, ReadOne, storage_bytes
from smolrecipe_torchtitan.options import PretrainOptions
from smolrecipe_torchtitan.start import Start
from smolrecipe_torchtitan.trainer import StageTrainer


@frozen(kw_only=True)
class Traced:
    """Bytes on the first device.

    ``activations`` is what is alive between the forward and the backward pass besides weights and gradients;
    ``besides`` the most that was ever alive besides weights, gradients and optimizer state, activations included;
    ``peak`` the most that was alive at all in a step of one micro-batch, whose gradients grow while its activations go.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    besides: int
    peak: int


def dry_run(options: PretrainOptions) -> DryRun:
    """Build the layout's first device and trace a step on it. Needs no GPU, no data and no input of the stage.

    - ``weight_bytes``: this device's parameters, in float32 whatever the precision, and buffers, of which every layer
      that rotates has one (its table of angles, sequence_length x 2 head_dim x 4 bytes).
    - ``gradient_bytes``: those of the parameters, float32.
    - ``optimizer_bytes``: the state that the optimizer has after a step.
    - ``activation_bytes``: what is alive between the forward and the backward pass of one micro-batch besides the above
      and gathered weights: what autograd or activation checkpointing keeps, log-probabilities included, and the batch.
      With loss_chunks the gradient of the last hidden states, too.
    - ``other_bytes``: the most that was alive besides at any moment of both passes, less those activations: logits on
      the way to the loss, their gradient, gathered weights in the stage's precision, gradients on the way to where they
      are summed, activations computed again.

    The sum bounds a step's peak from above: with one micro-batch in a step, gradients are not all there while
    activations are. It is the first device's; the others hold as much or less.
    Not counted: the CUDA context, kernels' workspaces, NCCL's buffers and fragmentation (a few GiB together); masks of
    blocks; a second layer's weights where FSDP2 gathers ahead; temporary tensors of the optimizer, whose step comes
    when activations are gone; where a step has several micro-batches, one layer's gradient before it is added.
    A compiled stage is traced as it is without compilation, which keeps more.

    ``flops_per_token`` counts 6 for each parameter that tokens are multiplied with and the causal half of attention
    over a whole row. Document masks make that less, so it is an upper bound.

    Raises:
        StageError: when the layout cannot be built, or its model not be traced.
    """
    model = draft_model(options)
    traced = _trace_once(options, model)
    with torch.device("meta"):
        whole = model.decoder.build()
    parameters, flops = model.decoder.get_nparams_and_flops(whole, options.sequence_length)
    _, without_attention = model.decoder.get_nparams_and_flops(whole, 0)
    return DryRun(
        parameters=parameters,
        devices=options.parallelism.processes,
        weight_bytes=traced.weights,
        gradient_bytes=traced.gradients,
        optimizer_bytes=traced.optimizer,
        activation_bytes=traced.activations,
        other_bytes=traced.besides - traced.activations,
        # torchtitan counts every query with every key of the row.
        flops_per_token=without_attention + (flops - without_attention) / 2,
        tokens_per_step=options.global_batch * options.sequence_length,
        steps=options.steps,
    )


_TRACED: list[tuple[PretrainOptions, Traced]] = []
"""Layouts that this process has traced: the stages of one trajectory share theirs."""


def _trace_once(options: PretrainOptions, model: DraftedModel) -> Traced:
    unused: Any = None
    layout = evolve(options, steps=1, trajectory_steps=None, from_=None, carry="weights", data=unused, seed=0)
    for other, traced in _TRACED:
        if other == layout:
            return traced
    _TRACED.append((layout, trace(options, model)))
    return _TRACED[-1][1]


def trace(options: PretrainOptions, model: DraftedModel) -> Traced:
    """Build the layout and watch a step of one micro-batch.

    Raises:
        StageError: when torchtitan refuses the layout, or something in the model does not run on tensors without
            content.
    """
    if options.parallelism.pipeline_parallel > 1:
        raise StageError(
            f"there is no dry run of a pipeline (pipeline_parallel {options.parallelism.pipeline_parallel}): its "
            "processes ask each other for the shapes that they pass on, and a dry run has only one. "
            "Try it with pipeline_parallel: 1"
        )
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with ExitStack() as stack:
        stack.enter_context(_pretended_processes(options.parallelism.processes))
        if options.parallelism.device == "cuda":
            stack.enter_context(kernels_of_a_gpu())
        with _sentences("torchtitan cannot build this stage's layout"):
            trainer = _build(options, model, fake)
        stack.callback(trainer.close)
        with _sentences("this stage's model cannot be traced without its devices"), fake:
            return _watch_step(trainer, options)


@contextmanager
def _pretended_processes(processes: int) -> Iterator[None]:
    """The environment of the first of so many processes; no process group is left behind, nor DTensor's memory of it.

    DTensor remembers what operations return, with the device mesh, and another run's mesh is not this one's.
    """
    own = {"NGPU": str(processes), "WORLD_SIZE": str(processes), "RANK": "0", "LOCAL_RANK": "0"}
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    collecting = gc.isenabled()
    gc.freeze()
    try:
        yield
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        _clear_sharding_prop_cache()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        gc.unfreeze()
        if collecting:
            gc.enable()


@contextmanager
def _sentences(what: str) -> Iterator[None]:
    """Turn what engines raise into an error for people; the whole of it goes to the log."""
    try:
        yield
    except StageError:
        raise
    except Exception as error:
        traceback.print_exc()
        said = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise StageError(f"{what}: {said}") from error


def _build(options: PretrainOptions, model: DraftedModel, fake: FakeTensorMode) -> StageTrainer:
    """torchtitan's trainer for the stage, with fake parameters and without checkpoints."""
    unread: Any = None  # no batch is ever loaded
    rows: TokenRows = unread
    with tempfile.TemporaryDirectory() as folder:
        config = trainer_config(
            evolve(options, compile=False),
            StageContext(recipe="dry-run", stage="dry-run", folder=Path(folder)),
            model=model,
            rows=rows,
            start=Start(),
            names=None,
        )
        config.checkpoint.enable = False
        config.comm = CommConfig(mode="fake_backend", trace_buf_size=0)
        config.model_spec.parallelize_fn = partial(_parallelize, fake)
        return config.build()


def _parallelize(fake: FakeTensorMode, model: nn.Module, **kwargs: Any) -> nn.Module:
    """Parallelize, and let the parameters come to life as fake tensors.

    Not all of the building can happen under the fake mode: device meshes read their ranks from tensors.
    """
    model = parallelize(model, **kwargs)

    def faked(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with fake:
                return method(*args, **kwargs)

        return call

    for name in ("to_empty", "init_weights"):
        setattr(model, name, faked(getattr(model, name)))
    return model


def _watch_step(trainer: StageTrainer, options: PretrainOptions) -> Traced:
    """Forward, backward and optimizer step as in ``Trainer.train_step``, with one micro-batch."""
    (part,) = trainer.model_parts
    if options.parallelism.device == "cuda":
        # Attention is replaced and reads no masks; building them needs the positions' values.
        part.get_attention_masks = lambda positions: None
    memory = LiveMemory()
    held = memory.note([*part.parameters(), *part.buffers()])
    weights = storage_bytes([*part.parameters(), *part.buffers()])
    with memory.watching():
        shape = (options.micro_batch, options.sequence_length)
        batch = {name: torch.zeros(shape, dtype=torch.int64) for name in ("input", "positions")}
        labels = torch.zeros(shape, dtype=torch.int64)
        inputs, labels, extra = trainer.post_dataloading_process(batch, labels)
        del batch
        with trainer.train_context():
            prediction = part(inputs, **extra)
            loss, _ = trainer.loss_fn(prediction, labels, torch.ones(()), positions=extra["positions"])
            del prediction
            between = memory.live()
            gathered = memory.note(part.parameters()) - held
            loss.backward()
    with ReadOne():  # optimizers read how many steps they have made
        trainer.optimizers.step()
    gradients = [parameter.grad for parameter in part.parameters()]
    state = [leaf for optimizer in trainer.optimizers for leaf in tree_leaves(list(optimizer.state.values()))]
    lasting = held | memory.note(gradients) | memory.note(state)
    return Traced(
        weights=weights,
        gradients=storage_bytes(gradients),
        optimizer=storage_bytes(state),
        activations=sum(size for number, size in between.items() if number not in lasting | gathered),
        besides=memory.peak(without=lasting),
        peak=memory.peak(without=memory.note(state)) + storage_bytes(state),
    )
