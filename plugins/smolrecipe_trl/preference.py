"""Preference optimisation with ``trl.DPOTrainer`` and any preference loss."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy
import torch  # noqa: TID253
from datasets import Dataset  # noqa: TID253
from trl import DPOConfig  # noqa: TID253

from smolrecipe import Artifact, Loss, StageContext, Use
from smolrecipe_trl.chat_templates import template_name
from smolrecipe_trl.checkpoints import last_sealed_step
from smolrecipe_trl.conversations import pair
from smolrecipe_trl.engine import (
    engine_arguments,
    keep_full_precision,
    load_model,
    load_tokenizer,
    say_limits,
    silence_engines,
)
from smolrecipe_trl.held_out import (
    batches,
    before_and_after,
    measuring,
    own_batches,
    row_lengths,
    shared,
)
from smolrecipe_trl.options import PreferenceOptions, fraction_name
from smolrecipe_trl.preference_trainer import (
    COLUMNS,
    PreferenceTrainer,
    answer_log_probs,
    answer_tokens,
    collate_pairs,
    per_pair_loss,
    preference_batch,
    wins,
)
from smolrecipe_trl.processes import Processes, joined
from smolrecipe_trl.rendering import ChatRenderer, RenderedPair
from smolrecipe_trl.row_counts import Counts
from smolrecipe_trl.row_files import Prepare, RowFiles, RowTools, row_files
from smolrecipe_trl.sample_order import Steps, accumulation, plan_steps, row_order
from smolrecipe_trl.tokenising import Tokens, tokenise
from smolrecipe_trl.training import ROWS_FOLDER, TRAINER_FOLDER, CoursePlan, run_course

MARGIN = "reward margin"
ACCURACY = "reward accuracy"
LOSS = "held-out preference loss"
HELD_OUT_COLUMNS = ("chosen_log_prob", "rejected_log_prob", "chosen_tokens", "rejected_tokens")
_KINDS: dict[str, dict[str, Any]] = {
    MARGIN: {"better": "higher"},
    ACCURACY: {"better": "higher"},
    LOSS: {"better": "lower"},
}
_METRICS = {
    "loss": "loss",
    "learning_rate": "lr",
    "grad_norm": "grad_norm",
    "rewards/margins": "reward_margin",
    "rewards/accuracies": "reward_accuracy",
    "logps/chosen": "chosen_log_prob",
    "logps/rejected": "rejected_log_prob",
}


def align(options: PreferenceOptions, context: StageContext) -> Artifact:
    """Optimise the preference loss, publish the model and the checkpoints to keep.

    Returns:
        The artifact, with rewards on held-out pairs before and after.

    Raises:
        StageError: for rows, a tokenizer, a loss or a batch that do not fit, for a loss that is not finite, and for
            another process that is gone or does not answer.
        StageStopped: when the stage is asked to stop.
    """
    silence_engines()
    with joined(context, options.parallelism, last_sealed_step(context.folder / TRAINER_FOLDER)) as processes:
        return _align(options, context, processes)


def _align(options: PreferenceOptions, context: StageContext, processes: Processes) -> Artifact:
    source = context.input(options.from_)
    tokenizer = load_tokenizer(source, options)
    rows = _rows(options, context, processes, tokenizer)
    rows.report(context)
    steps = plan_steps(len(rows.train), options)
    model = load_model(source, options, tokenizer)
    say_limits(model, options, context)
    needs_reference = options.loss.component.needs_reference
    reference = load_model(source, options, tokenizer) if needs_reference else None
    trainer = make_trainer(options, context, rows.train, tokenizer, model, reference, steps)

    most_tokens = options.micro_batch * options.max_length

    def measure() -> dict[str, list[list[float]]]:
        return {
            name: _answers(trainer, held, tokenizer, most_tokens, processes.stop_if_asked)
            for name, held in rows.held_out.items()
        }

    plan = CoursePlan(
        rows=rows.identity,
        measure=measure,
        try_weights=lambda: _answers(trainer, rows.train.take(1), tokenizer, most_tokens),
        metrics=_METRICS,
        columns=HELD_OUT_COLUMNS,
        keep=_kept_steps(options, steps),
    )
    course = run_course(trainer, tokenizer, options, context, processes, plan)
    before = {name: _rewards(options.loss, answers, answers) for name, answers in course.before.items()}
    after = {name: _rewards(options.loss, answers, course.before[name]) for name, answers in course.after.items()}
    return Artifact(
        measures=before_and_after(before, after, _KINDS, {name: len(held) for name, held in rows.held_out.items()}),
        summary={
            **rows.summary(),
            "chat_template": template_name(options.chat_template),
            "loss": options.loss.name,
            "reference_model": needs_reference,
            "pairs": len(rows.train),
            "steps": steps.run,
            "passes": round(steps.run * options.global_batch / len(rows.train), 4),
            "kept": {name: step for step, names in _kept_steps(options, steps).items() for name in names},
            **{f"last_{name}": value for name, value in course.last_step.items()},
        },
    )


def make_trainer(
    options: PreferenceOptions,
    context: StageContext,
    rows: Dataset,
    tokenizer: Any,
    model: Any,
    reference: Any,
    steps: Steps,
) -> PreferenceTrainer:
    """The trainer of ``steps`` over ``rows`` in the order that the seed decides."""
    arguments = DPOConfig(
        **engine_arguments(
            options,
            context.folder / TRAINER_FOLDER,
            processes=context.world_size,
            accumulation=accumulation(options, context.world_size),
            steps=steps.run,
        ),
        max_length=None,  # the rows are cut already
    )
    keep_full_precision(arguments)
    order = row_order(len(rows), steps.run * options.global_batch, options.seed)
    return PreferenceTrainer(
        model=model,
        reference=reference,
        loss=options.loss,
        args=arguments,
        data_collator=partial(collate_pairs, pad_token_id=tokenizer.pad_token_id),
        train_dataset=rows.select(order, keep_in_memory=True),
        processing_class=tokenizer,
        optimizer=options.optimizer,
        schedule=options.schedule,
        scheduled_steps=steps.scheduled,
    )


def tokenised_pairs(tokenizer: Any, max_length: int) -> Prepare:
    """What turns rendered pairs into rows of ``COLUMNS``.

    Scored is what the assistant wrote after the prompt; results of tools and turns of the user in an answer are not.
    """

    def half(tokens: Tokens, counts: Counts) -> tuple[numpy.ndarray, numpy.ndarray]:
        scored = tokens.marked.astype(numpy.int32)
        scored[:1] = 0  # a first token follows nothing
        over = max(0, len(tokens.ids) - max_length)
        counts.truncated_tokens += over
        counts.truncated_rows = int(bool(counts.truncated_rows or over))
        return tokens.ids[:max_length], scored[:max_length]

    def row(chosen: Tokens, rejected: Tokens) -> tuple[dict[str, Any] | None, Counts]:
        spells = chosen.spells_control_tokens or rejected.spells_control_tokens
        lengths = Counter([len(chosen.ids), len(rejected.ids)])
        counts = Counts(rows=1, lengths=lengths, rows_spelling_control_tokens=int(spells))
        chosen_ids, chosen_mask = half(chosen, counts)
        rejected_ids, rejected_mask = half(rejected, counts)
        if not chosen_mask.any() or not rejected_mask.any():
            counts.rows_without_loss, counts.dropped_tokens = 1, len(chosen_ids) + len(rejected_ids)
            return None, counts
        if numpy.array_equal(chosen_ids, rejected_ids) and numpy.array_equal(chosen_mask, rejected_mask):
            counts.rows_of_equal_answers, counts.dropped_tokens = 1, len(chosen_ids) + len(rejected_ids)
            return None, counts
        counts.tokens = len(chosen_ids) + len(rejected_ids)
        counts.learned_tokens = int(chosen_mask.sum() + rejected_mask.sum())
        return dict(zip(COLUMNS, (chosen_ids, chosen_mask, rejected_ids, rejected_mask), strict=True)), counts

    def prepare(batch: list[RenderedPair]) -> list[tuple[Mapping[str, Any] | None, Counts]]:
        tokens = tokenise(tokenizer, [half for pair in batch for half in (pair.chosen, pair.rejected)])
        return [row(chosen, rejected) for chosen, rejected in zip(tokens[::2], tokens[1::2], strict=True)]

    return prepare


def _rows(options: PreferenceOptions, context: StageContext, processes: Processes, tokenizer: Any) -> RowFiles:
    def tools() -> RowTools:
        renderer = ChatRenderer(tokenizer, tokenizer.chat_template)
        prepare = tokenised_pairs(tokenizer, options.max_length)
        return RowTools(
            render=lambda row: renderer.pair(pair(row)),
            prepare=prepare,
            prepare_held_out=prepare,
            unread=renderer.unread,
        )

    return row_files(context, processes, context.folder / ROWS_FOLDER, options.data, options.held_out, COLUMNS, tools)


def _kept_steps(options: PreferenceOptions, steps: Steps) -> dict[int, list[str]]:
    kept: dict[int, list[str]] = {}
    for fraction in options.keep:
        kept.setdefault(max(1, round(fraction * steps.run)), []).append(fraction_name(fraction))
    return kept


def _answers(
    trainer: PreferenceTrainer,
    rows: Dataset,
    tokenizer: Any,
    most_tokens: int,
    between: Callable[[], None] | None = None,
) -> list[list[float]]:
    """Log-probabilities and token counts, as (chosen, rejected, chosen tokens, rejected tokens) of every pair.

    ``most_tokens`` is what the chosen or the rejected half of a batch may have; for ``between`` see ``own_batches``.
    """
    device = trainer.args.device
    found = torch.zeros(len(rows), 4, dtype=torch.float64, device=device)
    halves = (row_lengths(rows, "chosen_ids"), row_lengths(rows, "rejected_ids"))
    lengths = [max(pair) for pair in zip(*halves, strict=True)]
    with measuring(trainer) as model:
        for numbers, counts in own_batches(trainer, batches(lengths, most_tokens), between):
            batch = collate_pairs([rows[number] for number in numbers], tokenizer.pad_token_id)
            inputs = {name: tensor.to(device) for name, tensor in batch.items()}
            values = torch.stack([*answer_log_probs(model, inputs), *answer_tokens(inputs)], dim=1)
            if counts:
                found[torch.tensor(numbers, device=device)] = values.double()
    return shared(trainer, found)


def _rewards(
    loss: Use[Loss], policy: Sequence[Sequence[float]], reference: Sequence[Sequence[float]]
) -> dict[str, float]:
    """What the loss says of held-out pairs; ``reference`` is what the model made of them before training."""
    chosen, rejected, chosen_tokens, rejected_tokens = torch.tensor(policy, dtype=torch.float64).unbind(1)
    at_start = torch.tensor(reference, dtype=torch.float64).unbind(1)
    answer = per_pair_loss(
        loss,
        preference_batch(
            (chosen, rejected),
            (at_start[0], at_start[1]) if loss.component.needs_reference else (None, None),
            (chosen_tokens, rejected_tokens),
        ),
    )
    measured = {LOSS: float(answer.losses.mean())}
    if answer.chosen_rewards is not None and answer.rejected_rewards is not None:
        margins = answer.chosen_rewards - answer.rejected_rewards
        measured |= {MARGIN: float(margins.mean()), ACCURACY: float(wins(margins).mean())}
    return measured
