"""What can be known of a pretraining stage from its options alone, before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from smolrecipe import Devices, HfConfig, Model, StageError
from smolrecipe_torchtitan.options import DecoderOptions, PretrainOptions


def produces(options: PretrainOptions) -> Mapping[str, Literal[True] | str]:
    """An engine checkpoint, and a Hugging Face one where every model component has a counterpart there."""
    without = [name for name, use in options.model.components.items() if use.component.to_hf is None]
    if without:
        names = ", ".join(f"'{name}'" for name in without)
        return {"checkpoint": True, "hf-model": f"model component {names} has no Hugging Face counterpart"}
    return {"checkpoint": True, "hf-model": True}


def devices(options: PretrainOptions) -> Devices:
    """One process for each combination of the parallel degrees."""
    layout = options.parallelism
    return Devices(processes=layout.processes, device=layout.device, memory_gib=layout.memory_gib)


def compose_hf_config(model: Model) -> HfConfig:
    """What the model's components write into a Hugging Face ``config.json``, in the recipe's order.

    Components without a counterpart there are left out.
    """
    config: HfConfig = {}
    for use in model.components.values():
        if use.component.to_hf is not None:
            use.component.to_hf(config, use.options)
    return config


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
    yield from _check_lengths(options)
    yield from _check_batches(options)
    yield from _check_model(options)


def _check_start(options: PretrainOptions) -> Iterator[str]:
    if options.from_ is not None and options.from_hf is not None:
        yield "'from' and 'from_hf' both say where the weights come from: leave one out"
    if options.carry == "everything" and options.from_ is None:
        yield "carry: everything needs a stage to carry it from: give 'from', or leave 'carry' out"
    if options.from_hf is not None and not (options.from_hf / "config.json").is_file():
        yield f"from_hf: {options.from_hf} is no Hugging Face checkpoint (it has no config.json)"
    if options.trajectory_steps is not None and options.trajectory_steps < options.steps:
        yield (
            f"trajectory_steps ({options.trajectory_steps}) is less than steps ({options.steps}): "
            "the trajectory contains this stage"
        )


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
    try:
        config = compose_hf_config(options.model)
    except StageError as error:
        yield str(error)
        return
    if layout.pipeline_parallel > 1 and config.get("tie_word_embeddings"):
        yield (
            "tied embeddings cannot be split over a pipeline (first and last process would need the same matrix): "
            "set tie_embeddings: false, or use tensor_parallel or data_parallel instead of pipeline_parallel "
            f"{layout.pipeline_parallel}"
        )
    layers = config.get("num_hidden_layers")
    # The first and the last process also hold an embedding each, which counts as a layer.
    if layers is not None and layout.pipeline_parallel > layers + 2:
        yield f"pipeline_parallel ({layout.pipeline_parallel}) is more than {layers} layers can be spread over"
    for key, what in (("num_attention_heads", "query heads"), ("num_key_value_heads", "key and value heads")):
        heads = config.get(key)
        if heads is not None and heads % layout.tensor_parallel:
            yield (
                f"{heads} {what} cannot be shared evenly by tensor_parallel {layout.tensor_parallel}: "
                "choose a degree that divides them"
            )
