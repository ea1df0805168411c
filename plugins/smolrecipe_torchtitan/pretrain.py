"""The stage kind ``pretrain``, from start to artifact. Every process of the stage runs this."""

from __future__ import annotations

import gc
import json
import math
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch  # noqa: TID253
import torch.distributed as dist  # noqa: TID253
from attrs import frozen
from torchtitan.tools.utils import device_type  # noqa: TID253

from smolrecipe import Artifact, Measure, StageContext, StageError, StageStopped, TokenRow
from smolrecipe.durable import discard, write_whole
from smolrecipe.stage import CHECKPOINTS_FOLDER, MODEL_FOLDER, TOKENIZER_FOLDER
from smolrecipe_torchtitan.assemble import DraftedModel, draft_model, trainer_config
from smolrecipe_torchtitan.checkpoints import damage_seen_by_anyone, find_whole, leave_published
from smolrecipe_torchtitan.checks import produces, published_steps
from smolrecipe_torchtitan.held_out import held_out_loss
from smolrecipe_torchtitan.hugging_face import check_import, config_differences, export_model, hf_names
from smolrecipe_torchtitan.metrics import not_finite
from smolrecipe_torchtitan.on_the_way import ModelsOnTheWay
from smolrecipe_torchtitan.options import PretrainOptions
from smolrecipe_torchtitan.row_sample import read_by, write_row_sample
from smolrecipe_torchtitan.start import Start, check_optimizer, check_weights, damaged, find_start
from smolrecipe_torchtitan.together import sentences_of_others
from smolrecipe_torchtitan.tokenizer import TokenizerFacts, read_tokenizer
from smolrecipe_torchtitan.trainer import StageTrainer

HELD_OUT_FILE = "held_out.json"
"""The held-out loss before training, which an interrupted stage cannot measure again."""


def run(options: PretrainOptions, context: StageContext) -> Artifact:
    """Train, measure, export.

    Raises:
        StageError: for what does not fit together, and when training diverges.
    """
    layout = options.parallelism
    if context.world_size != layout.processes:
        raise StageError(
            f"the parallel layout is for {layout.processes} processes and {context.world_size} run: "
            "start the stage through a launcher, or change 'parallelism'"
        )
    tokenizer_folder = context.input(options.tokenizer, TOKENIZER_FOLDER)
    tokenizer = read_tokenizer(tokenizer_folder)
    model = draft_model(options)
    _check_vocabulary(tokenizer, model)
    exports = produces(options)["hf-model"] is True
    start = find_start(options, context)
    names = (
        hf_names(model.parameters, model.draft.hf_parameters, tied=model.decoder.enable_weight_tying)
        if exports or start.hugging_face is not None
        else None
    )
    _check_trajectory(options, start)
    rows = options.data.component.open(
        options.data.options, context, options.sequence_length, options.seed, start.position
    )
    held_out = rows.held_out(options.held_out_rows) if options.held_out_rows else []
    _say_about(options, context, model, start, len(held_out))

    def export(checkpoint: Path, target: Path) -> None:
        assert names is not None
        export_model(
            checkpoint,
            target,
            names=names,
            config={"max_position_embeddings": options.sequence_length, **options.model.to_hf()},
            dtype=options.export_dtype or options.precision,
            tokenizer_folder=tokenizer_folder,
            tokenizer=tokenizer,
        )

    models = ModelsOnTheWay(context.folder, published_steps(options, start.step), start.step, export)
    if context.rank == 0:
        models.take_back()

    def saved(step: int) -> None:
        context.saved(step)
        if context.rank == 0:
            models.saved(start.step + step)

    config = trainer_config(
        options, context, model=model, rows=rows, start=start, names=names, heed=context.heed_stop(), saved=saved
    )
    trained = _train(config, context, start=start, names=names, model=model, held_out=held_out, models=models)
    samples = options.steps * options.global_batch
    on_the_way: list[int] = []
    if context.rank == 0:
        checkpoints = leave_published(
            context.folder / CHECKPOINTS_FOLDER, options.keep_checkpoints, options.checkpoint_every, start.step
        )
        if exports:
            export(checkpoints[0][1], context.folder / MODEL_FOLDER)
        on_the_way = models.hand_over()
        write_row_sample(context.folder, rows, samples)
    return Artifact(
        measures=_measures(context, trained, len(held_out)),
        summary={
            "parameters": _count_parameters(model),
            "first_step": start.step + 1,
            "steps": options.steps,
            "tokens": samples * options.sequence_length,
            "last_loss": _last_loss(context),
            "started_from": str(options.from_ or "a new model"),
            **({"published": on_the_way} if on_the_way else {}),
            "data": dict(rows.summary()),
            "read": read_by(rows, samples),
            "documents_apart": model.restart_positions,
        },
    )


@frozen(kw_only=True)
class Trained:
    """What training told: held-out losses (``before`` is unknown to a stage that was resumed)."""

    before: float | None
    after: float | None


def _train(
    config: StageTrainer.Config,
    context: StageContext,
    *,
    start: Start,
    names: dict[str, str] | None,
    model: DraftedModel,
    held_out: list[TokenRow],
    models: ModelsOnTheWay,
) -> Trained:
    """Train, with the held-out loss before and after. Model and optimizer are gone from memory when this returns."""
    with _training(config, alone=context.world_size == 1) as trainer:
        resumed = _restore(trainer, context, start, names, model, models)
        before = after = None
        if held_out and not resumed:
            before = held_out_loss(trainer, held_out, restart_positions=model.restart_positions)
            _remember(context, before)
        trainer.train()
        if held_out:
            trainer.place = f"after step {trainer.own_step}"
            after = held_out_loss(trainer, held_out, restart_positions=model.restart_positions)
            _refuse_broken(trainer, context, after)
        trainer.stop_if_asked()
        return Trained(before=before, after=after)


@contextmanager
def _training(config: StageTrainer.Config, *, alone: bool) -> Iterator[StageTrainer]:
    """A trainer and its process group.

    torchtitan turns Python's garbage collector off and calls it itself; here it is on again afterwards. What exists
    already, mostly imported modules, is kept out of its collections: they would take longer than a small model's step.
    """
    collecting = gc.isenabled()
    gc.freeze()
    if alone:
        _meet_oneself()
    trainer: StageTrainer | None = None
    failed = True

    def place() -> str:
        return "before the first step" if trainer is None else trainer.place

    def seconds() -> int:
        return config.comm.init_timeout_seconds if trainer is None else trainer.together.seconds

    try:
        with sentences_of_others(place, seconds):
            trainer = _build(config)
            yield trainer
        failed = False
    except StageStopped:
        failed = False  # all processes stop together
        raise
    finally:
        # A process that fails beside others must not wait for them in a collective operation.
        if alone or not failed:
            if trainer is not None:
                if failed:
                    with suppress(Exception):  # what failed first is what is raised
                        trainer.checkpointer.maybe_wait_for_saving()
                trainer.close()
            if dist.is_initialized():
                dist.destroy_process_group()
        gc.unfreeze()
        if collecting:
            gc.enable()


def _build(config: StageTrainer.Config) -> StageTrainer:
    """The trainer of a configuration; what torchtitan says of one that it does not support is for the user."""
    try:
        trainer = config.build()
        trainer.meet()
        return trainer
    except (ValueError, NotImplementedError) as error:
        traceback.print_exc()
        raise StageError(f"torchtitan does not take this stage's model and options together: {error}") from error


def _meet_oneself() -> None:
    """Let a process without a launcher form a group of one, through its own memory.

    torchtitan would have it listen on every network of the machine for processes that never come, and look up names.
    """
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    torch.autograd.set_multithreading_enabled(False)  # as torchtitan does where it makes the group
    backends = {"cpu": "gloo", device_type: dist.Backend.default_device_backend_map[device_type]}
    names = ",".join(f"{device}:{backend}" for device, backend in backends.items())
    dist.init_process_group(names, store=dist.HashStore(), rank=0, world_size=1)


def _restore(
    trainer: StageTrainer,
    context: StageContext,
    start: Start,
    names: dict[str, str] | None,
    model: DraftedModel,
    models: ModelsOnTheWay,
) -> bool:
    """Load what the stage goes on from, checked beforehand. Returns whether that is a checkpoint of its own."""
    group = trainer.together.group
    found = find_whole(context.folder / CHECKPOINTS_FOLDER, start.step, group, context.say)
    if context.rank == 0:
        models.go_on(found)
    if found is None and start.checkpoint is not None:
        if (damage := damage_seen_by_anyone(start.checkpoint, group)) is not None:
            raise damaged(start.checkpoint, start.ref, damage)
        check_weights(start.checkpoint, model.parameters)
        if start.everything:
            check_optimizer(start.checkpoint, trainer.optimizers.state_dict())
    if found is None and start.hugging_face is not None and names is not None:
        check_import(start.hugging_face, names, model.parameters)
    trainer.restore(found)
    if found is not None:
        context.say(f"goes on after step {trainer.own_step}, from its last whole checkpoint")
        context.saved(trainer.own_step)
    trainer.stop_if_asked()
    return found is not None


def _check_vocabulary(tokenizer: TokenizerFacts, model: DraftedModel) -> None:
    if tokenizer.size > model.decoder.vocab_size:
        raise StageError(
            f"the tokenizer has {tokenizer.size} tokens and the model only {model.decoder.vocab_size}: "
            f"set vocab_size of the decoder to {tokenizer.size} or more"
        )


def _check_trajectory(options: PretrainOptions, start: Start) -> None:
    last = start.step + options.steps
    if options.trajectory_steps is not None and options.trajectory_steps < last:
        raise StageError(
            f"trajectory_steps ({options.trajectory_steps}) ends within this stage, whose steps are {start.step + 1} "
            f"to {last} of the trajectory: raise it to {last} or more"
        )


def _say_about(
    options: PretrainOptions, context: StageContext, model: DraftedModel, start: Start, held_out: int
) -> None:
    context.say(
        f"{_count_parameters(model):,} parameters, {options.steps:,} steps of "
        f"{options.global_batch * options.sequence_length:,} tokens"
    )
    if options.publish_every is not None and not published_steps(options, start.step):
        context.say(
            f"no step between {start.step + 1:,} and {start.step + options.steps:,}, its last, is a multiple of "
            f"publish_every ({options.publish_every:,}): no model is published on the way"
        )
    if held_out < options.held_out_rows:
        context.say(f"the data has {held_out} held-out rows of the {options.held_out_rows} that were asked for")
    if start.hugging_face is not None:
        differences = config_differences(start.hugging_face, options.model.to_hf())
        for key, (there, here) in differences.items():
            context.say(f"{key} is {there!r} in the config.json of '{options.from_}' and {here!r} in this stage")


def _count_parameters(model: DraftedModel) -> int:
    tied = model.decoder.enable_weight_tying
    return sum(math.prod(shape) for name, shape in model.parameters.items() if not (tied and name == "lm_head.weight"))


def _refuse_broken(trainer: StageTrainer, context: StageContext, loss: float) -> None:
    """Refuse a model that the very last step broke: only the held-out loss can tell."""
    if not math.isfinite(loss):
        if context.rank == 0:
            discard(context.folder / CHECKPOINTS_FOLDER / f"step-{trainer.step}")
        raise not_finite("held-out loss", loss, trainer.own_step)


def _last_loss(context: StageContext) -> float | None:
    """The loss of the last step, which a stage that was resumed behind it has not computed again."""
    return next((event["loss"] for event in reversed(context.events()) if "loss" in event), None)


def _remember(context: StageContext, before: float) -> None:
    if not math.isfinite(before):
        raise StageError(
            f"the held-out loss is {before} before the first step: what this stage starts from computes no finite "
            "numbers, in this precision or at all"
        )
    if context.rank == 0:
        write_whole(context.folder / HELD_OUT_FILE, json.dumps({"before": before}))


def _measures(context: StageContext, trained: Trained, rows: int) -> tuple[Measure, ...]:
    if trained.after is None:
        return ()
    before, kept = trained.before, context.folder / HELD_OUT_FILE
    if before is None and kept.is_file():
        before = json.loads(kept.read_text())["before"]
    return (
        Measure(
            name="held-out loss", before=before, after=trained.after, better="lower", unit="nats/token", samples=rows
        ),
    )
