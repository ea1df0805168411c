"""Fine-tuning on conversations with ``trl.SFTTrainer``."""

from __future__ import annotations

from typing import Any

from datasets import Dataset  # noqa: TID253
from trl import SFTConfig, SFTTrainer  # noqa: TID253
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling  # noqa: TID253

from smolrecipe import Artifact, StageContext
from smolrecipe_trl.chat_templates import template_name
from smolrecipe_trl.checkpoints import last_sealed_step
from smolrecipe_trl.conversations import conversation
from smolrecipe_trl.engine import (
    engine_arguments,
    keep_full_precision,
    load_model,
    load_tokenizer,
    say_limits,
    silence_engines,
)
from smolrecipe_trl.held_out import (
    ACCURACY,
    LEARNED_COLUMNS,
    LOSS,
    before_and_after,
    learned_loss,
    means,
)
from smolrecipe_trl.options import SftOptions
from smolrecipe_trl.packing import COLUMNS, labelled, packed, packing_summary
from smolrecipe_trl.processes import Processes, joined
from smolrecipe_trl.rendering import ChatRenderer
from smolrecipe_trl.row_files import RowFiles, RowTools, row_files
from smolrecipe_trl.sample_order import Steps, accumulation, plan_steps, row_order
from smolrecipe_trl.trainer_parts import RecipeTrainer
from smolrecipe_trl.training import ROWS_FOLDER, TRAINER_FOLDER, CoursePlan, run_course

_KINDS: dict[str, dict[str, Any]] = {LOSS: {"better": "lower", "unit": "nats/token"}, ACCURACY: {"better": "higher"}}
_METRICS = {
    "loss": "loss",
    "learning_rate": "lr",
    "grad_norm": "grad_norm",
    "mean_token_accuracy": "token_accuracy",
    "entropy": "entropy",
}


class SftTrainer(RecipeTrainer, SFTTrainer):
    """TRL's trainer with the recipe's optimizer and schedule, on rows that are labelled and packed already."""


def fine_tune(options: SftOptions, context: StageContext) -> Artifact:
    """Fine-tune the model and publish it.

    Returns:
        The artifact, with the loss on held-out rows (by the rule that labels the training rows) before and after.

    Raises:
        StageError: for rows, a tokenizer or a batch that do not fit, for a loss that is not finite, and for another
            process that is gone or does not answer.
        StageStopped: when the stage is asked to stop.
    """
    silence_engines()
    with joined(context, options.parallelism, last_sealed_step(context.folder / TRAINER_FOLDER)) as processes:
        return _fine_tune(options, context, processes)


def _fine_tune(options: SftOptions, context: StageContext, processes: Processes) -> Artifact:
    source = context.input(options.from_)
    tokenizer = load_tokenizer(source, options)
    rows = _rows(options, context, processes, tokenizer)
    rows.report(context)
    packing = packing_summary(rows.train, options.max_length)
    steps = plan_steps(len(rows.train), options)
    model = load_model(source, options, tokenizer)
    say_limits(model, options, context)
    trainer = make_trainer(options, context, rows.train, tokenizer, model, steps)
    collate = DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id)

    most_tokens = options.micro_batch * options.max_length

    def measure() -> dict[str, list[list[float]]]:
        return {
            name: learned_loss(trainer, held, collate, most_tokens, processes.stop_if_asked)
            for name, held in rows.held_out.items()
        }

    plan = CoursePlan(
        rows=rows.identity,
        measure=measure,
        try_weights=lambda: learned_loss(trainer, rows.train.take(1), collate, most_tokens),
        metrics=_METRICS,
        columns=LEARNED_COLUMNS,
    )
    course = run_course(trainer, tokenizer, options, context, processes, plan)
    before, after = ({name: means(table) for name, table in tables.items()} for tables in (course.before, course.after))
    return Artifact(
        measures=before_and_after(before, after, _KINDS, {name: len(held) for name, held in rows.held_out.items()}),
        summary={
            **rows.summary(),
            **packing,
            "chat_template": template_name(options.chat_template),
            "steps": steps.run,
            "scheduled_steps": steps.scheduled,
            "passes": round(steps.run * options.global_batch / len(rows.train), 4),
            **{f"last_{name}": value for name, value in course.last_step.items()},
        },
    )


def make_trainer(
    options: SftOptions, context: StageContext, rows: Dataset, tokenizer: Any, model: Any, steps: Steps
) -> SftTrainer:
    """The trainer of ``steps`` over ``rows`` in the order that the seed decides."""
    packing = options.packing != "none"
    arguments = SFTConfig(
        **engine_arguments(
            options,
            context.folder / TRAINER_FOLDER,
            processes=context.world_size,
            accumulation=accumulation(options, context.world_size),
            steps=steps.run,
        ),
        packing=packing,
        packing_strategy=options.packing if packing else "bfd",
        max_length=options.max_length,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    keep_full_precision(arguments)
    order = row_order(len(rows), steps.run * options.global_batch, options.seed)
    return SftTrainer(
        model=model,
        args=arguments,
        train_dataset=rows.select(order, keep_in_memory=True),
        processing_class=tokenizer,
        optimizer=options.optimizer,
        schedule=options.schedule,
        scheduled_steps=steps.scheduled,
    )


def _rows(options: SftOptions, context: StageContext, processes: Processes, tokenizer: Any) -> RowFiles:
    def tools() -> RowTools:
        renderer = ChatRenderer(tokenizer, tokenizer.chat_template)
        return RowTools(
            render=lambda row: renderer.conversation(conversation(row)),
            prepare=labelled(tokenizer, options),
            prepare_held_out=labelled(tokenizer, options, packing="none"),
            unread=renderer.unread,
        )

    folder = context.folder / ROWS_FOLDER
    return row_files(
        context, processes, folder, options.data, options.held_out, COLUMNS, tools, arrange=packed(options)
    )
