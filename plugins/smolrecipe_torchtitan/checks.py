"""What can be known of a pretraining stage from its options alone, before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from smolrecipe import Devices, HfConfig, Model, ModelDraft, Problem, StageError
from smolrecipe_torchtitan.options import (
    TRAINING_ONLY_SCHEDULES,
    WHOLE_LAYERS_SCHEDULES,
    DecoderOptions,
    PretrainOptions,
)

if TYPE_CHECKING:
    from smolrecipe.planning.plan import Plan

MOST_PUBLISHED = 10_000
"""Models that one stage may publish on its way; SmolLM3's longest published 86."""


def produces(options: PretrainOptions) -> Mapping[str, Literal[True] | str]:
    """An engine checkpoint, and a Hugging Face one where every model component has a counterpart there."""
    on_the_way = [f"hf-model@step-{step}" for step in possible_steps(options)]
    without = [name for name, use in options.model.components.items() if use.component.to_hf is None]
    if without:
        names = ", ".join(f"'{name}'" for name in without)
        why = f"model component {names} has no Hugging Face counterpart"
        return {"checkpoint": True, **dict.fromkeys(["hf-model", *on_the_way], why)}
    return {"checkpoint": True, **dict.fromkeys(["hf-model", *on_the_way], True)}


def possible_steps(options: PretrainOptions) -> Sequence[int]:
    """Steps of the trajectory whose models the stage may publish on its way; which it will, only the plan tells.

    A stage that carries everything on does not know at which step it starts.
    """
    if options.publish_every is None:
        return ()
    last = (options.trajectory_steps or 0) if options.carry == "everything" else options.steps
    return range(options.publish_every, last, options.publish_every)[: MOST_PUBLISHED + 1]


def published_steps(options: PretrainOptions, before: int) -> Sequence[int]:
    """Steps of the trajectory whose models a stage publishes on its way that begins after step ``before``."""
    every = options.publish_every
    return () if every is None else range(every * (before // every + 1), before + options.steps, every)


def devices(options: PretrainOptions) -> Devices:
    """One process for each combination of the parallel degrees."""
    layout = options.parallelism
    return Devices(processes=layout.processes, device=layout.device, memory_gib=layout.memory_gib)


def max_positions(model: Model) -> tuple[int, str] | None:
    """The longest sequence that the model allows and the component that says so: the last one that sets a bound.

    A component replaces the bound of those before it, as YaRN does to RoPE's.
    """
    bound = None
    for name, use in model.components.items():
        positions = use.component.max_positions(use.options)
        if positions is not None:
            bound = (positions, name)
    return bound


def check_decoder(options: DecoderOptions) -> Iterator[str]:
    """Yield what is wrong with a decoder's options taken together."""
    if options.head_dim is None and options.hidden_size % options.num_heads:
        yield (
            f"hidden_size ({options.hidden_size}) is not a multiple of num_heads ({options.num_heads}): "
            "choose another num_heads, or give head_dim"
        )
    elif options.width_of_head % 2:
        yield f"heads have an odd width ({options.width_of_head}): rotary embeddings turn pairs of dimensions"


def check_pretrain(options: PretrainOptions) -> Iterator[str]:
    """Yield what is wrong with a pretraining stage's options taken together."""
    yield from _check_start(options)
    yield from _check_published(options)
    yield from _check_lengths(options)
    yield from _check_batches(options)
    yield from _check_model(options)


def _check_start(options: PretrainOptions) -> Iterator[str]:
    if options.carry == "everything" and options.from_ is None:
        yield "carry: everything needs a stage to carry it from: give 'from', or leave 'carry' out"
    if options.trajectory_steps is not None and options.trajectory_steps < options.steps:
        yield (
            f"trajectory_steps ({options.trajectory_steps}) is less than steps ({options.steps}): "
            "the trajectory contains this stage"
        )


def _check_published(options: PretrainOptions) -> Iterator[str]:
    every = options.publish_every
    if every is None:
        return
    if every % options.checkpoint_every:
        yield (
            f"publish_every ({every}) is not a multiple of checkpoint_every ({options.checkpoint_every}): models are "
            "published from checkpoints"
        )
    if options.carry == "everything" and options.trajectory_steps is None:
        yield "publish_every with carry: everything needs trajectory_steps, which its steps are counted in"
    if len(possible_steps(options)) > MOST_PUBLISHED:
        yield f"publish_every ({every}) would publish more than {MOST_PUBLISHED:,} models: raise it"
    if (why := produces(options)["hf-model"]) is not True:
        yield f"publish_every: there is no model to publish, {why}"


def check_plan(plan: Plan) -> Iterator[Problem]:
    """Report references to models on the way of a pretraining stage that it does not come by.

    At which step of the trajectory a stage begins, only the stages before it tell.
    """
    begins: dict[str, int | None] = {}
    for stage in plan.stages:
        options = stage.use.options
        if isinstance(options, PretrainOptions):
            carried = options.from_ if options.carry == "everything" else None
            begins[stage.name] = 0 if carried is None else _end(plan, carried.stage, begins)
        for reference in stage.references:
            wanted, label = plan.by_name[reference.ref.stage].use.options, reference.ref.checkpoint
            if not label or not isinstance(wanted, PretrainOptions):
                continue
            begin = begins.get(reference.ref.stage)
            names = [] if begin is None else [f"step-{step}" for step in published_steps(wanted, begin)]
            if begin is not None and label not in names:
                what = f"'{reference.ref.stage}' publishes no checkpoint '{label}'"
                yield Problem(
                    f"{what}: its steps are {begin + 1:,} to {begin + wanted.steps:,} of the trajectory, and it "
                    f"publishes: {', '.join(names) or 'none on the way'}",
                    plan.recipe.place(reference.path),
                )
            elif isinstance(options, PretrainOptions) and options.carry == "everything":
                yield Problem(
                    f"carry: everything needs the whole checkpoint of a stage, and '{reference.ref}' is a model alone: "
                    f"use carry: weights, or from: {reference.ref.stage}",
                    plan.recipe.place(reference.path),
                )


def _end(plan: Plan, name: str, begins: Mapping[str, int | None]) -> int | None:
    """The last step of a stage on the trajectory, ``None`` for one that this plugin does not know."""
    options, begin = plan.by_name[name].use.options, begins.get(name)
    return begin + options.steps if isinstance(options, PretrainOptions) and begin is not None else None


def _check_lengths(options: PretrainOptions) -> Iterator[str]:
    layout, length = options.parallelism, options.sequence_length
    bound = max_positions(options.model)
    if bound is not None and length > bound[0]:
        yield (
            f"sequence_length ({length}) is longer than the {bound[0]} positions that model component '{bound[1]}' "
            f"allows: shorten it, or raise the bound in '{bound[1]}'"
        )
    # Context parallelism cuts a sequence in twice as many pieces as it has processes.
    pieces = (layout.tensor_parallel if layout.sequence_parallel else 1) * (
        2 * layout.context_parallel if layout.context_parallel > 1 else 1
    )
    if length % pieces:
        yield (
            f"sequence_length ({length}) is not a multiple of {pieces}, which tensor_parallel "
            f"{layout.tensor_parallel} and context_parallel {layout.context_parallel} need"
        )
    elif (length // layout.context_parallel) % options.loss_chunks:
        yield (
            f"loss_chunks ({options.loss_chunks}) does not divide the {length // layout.context_parallel} tokens of a "
            "sequence that one process has"
        )


def _check_batches(options: PretrainOptions) -> Iterator[str]:
    layout = options.parallelism
    together = options.micro_batch * layout.data_processes
    if options.global_batch % together:
        yield (
            f"global_batch ({options.global_batch}) is not a multiple of {together}: micro_batch "
            f"({options.micro_batch}) times the {layout.data_processes} processes that read different samples "
            f"(data_parallel {layout.data_parallel} x replicas {layout.replicas})"
        )
    if layout.pipeline_parallel > 1 and options.micro_batch % layout.pipeline_microbatch:
        yield (
            f"micro_batch ({options.micro_batch}) is not a multiple of pipeline_microbatch "
            f"({layout.pipeline_microbatch})"
        )


def _check_model(options: PretrainOptions) -> Iterator[str]:
    layout = options.parallelism
    draft = ModelDraft(
        device=layout.device,
        sequence_length=options.sequence_length,
        context_parallel=layout.context_parallel,
        tensor_parallel=layout.tensor_parallel,
    )
    for use in options.model.components.values():
        yield from use.component.check_draft(use.options, draft)
    try:
        config = options.model.to_hf()
    except StageError as error:
        yield str(error)
        return
    yield from _check_pipeline(options, config)
    shared = {
        "num_attention_heads": "query heads",
        "num_key_value_heads": "key and value heads",
        "intermediate_size": "columns of the feed-forward network (intermediate_size)",
        "vocab_size": "rows of the vocabulary (vocab_size)",
    }
    for key, what in shared.items():
        count = config.get(key)
        # torchtitan pads or drops what is left over without a word.
        if count is not None and count % layout.tensor_parallel:
            yield (
                f"{count} {what} cannot be shared evenly by tensor_parallel {layout.tensor_parallel}: "
                "choose a degree that divides them"
            )


def _check_pipeline(options: PretrainOptions, config: HfConfig) -> Iterator[str]:
    layout = options.parallelism
    degree, schedule = layout.pipeline_parallel, layout.pipeline_schedule
    if degree == 1:
        return
    if config.get("tie_word_embeddings"):
        yield (
            "tied embeddings cannot be split over a pipeline (first and last process would need the same matrix): "
            f"set tie_embeddings: false, or use tensor_parallel or data_parallel instead of pipeline_parallel {degree}"
        )
    one_run = schedule in WHOLE_LAYERS_SCHEDULES
    layers, runs = config.get("num_hidden_layers"), degree if one_run else 2 * degree
    # The first and the last run also hold an embedding each, which counts as a layer.
    if layers is not None and runs > layers + 2:
        yield (
            f"{layers} layers cannot be spread over pipeline_parallel {degree} with the schedule {schedule}, which "
            f"cuts them into {runs} runs: lower the degree{'' if one_run else ', or use the schedule 1F1B'}"
        )
    batches = options.micro_batch // layout.pipeline_microbatch
    if one_run and batches < degree:
        yield (
            f"the schedule {schedule} needs as many pipeline micro-batches as processes: micro_batch "
            f"({options.micro_batch}) / pipeline_microbatch ({layout.pipeline_microbatch}) is {batches}, "
            f"pipeline_parallel {degree}; raise micro_batch to {degree * layout.pipeline_microbatch}, or use the "
            "schedule Interleaved1F1B"
        )
    if schedule in TRAINING_ONLY_SCHEDULES and options.held_out_rows:
        yield (
            f"the schedule {schedule} cannot measure a held-out loss: set held_out_rows: 0, or use the schedule "
            "Interleaved1F1B"
        )
