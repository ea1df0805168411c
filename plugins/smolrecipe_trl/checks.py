"""What can be said of the options before anything runs, without an engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from smolrecipe import Devices, Source, StageError, Use
from smolrecipe_trl.chat_templates import BUILT_IN, marks_assistant, template_path, template_text
from smolrecipe_trl.options import PreferenceOptions, SftOptions, TrainingOptions, fraction_name


def devices(options: TrainingOptions) -> Devices:
    """The processes and devices that the stage runs on."""
    layout = options.parallelism
    return Devices(processes=layout.processes, device=layout.device, memory_gib=layout.memory_gib)


def sft_products(options: SftOptions) -> Mapping[str, Literal[True] | str]:
    """A Hugging Face model."""
    return {"hf-model": True}


def preference_products(options: PreferenceOptions) -> Mapping[str, Literal[True] | str]:
    """A Hugging Face model, and one for each fraction that is kept."""
    return {"hf-model": True, **{f"hf-model@{fraction_name(fraction)}": True for fraction in options.keep}}


def check_sft(options: SftOptions) -> Iterator[str]:
    """Sentences for what is wrong with the options of ``sft``."""
    yield from _check_training(options, yields="chat", needs_markers=options.loss_on == "assistant")
    if options.stop_after is not None:
        if options.epochs is None:
            yield "'stop_after' counts epochs and needs 'epochs'; 'max_steps' already says where training ends"
        elif options.stop_after > options.epochs:
            yield f"'stop_after' is {options.stop_after:g} epochs, more than the {options.epochs:g} of 'epochs'"


def check_preference(options: PreferenceOptions) -> Iterator[str]:
    """Sentences for what is wrong with the options of ``preference``."""
    yield from _check_training(options, yields="preference", needs_markers=True)
    for fraction in options.keep:
        if not 0 < fraction < 1:
            yield f"'keep' holds {fraction:g}: a fraction of the run lies between 0 and 1"
    names = [fraction_name(fraction) for fraction in options.keep]
    if len(set(names)) < len(names):
        yield f"'keep' names a checkpoint twice: {', '.join(names)}"


def _check_training(options: TrainingOptions, *, yields: str, needs_markers: bool) -> Iterator[str]:
    if (options.epochs is None) == (options.max_steps is None):
        yield "give 'epochs' or 'max_steps', one of the two"
    if not options.data:
        yield "'data' names no source"
    yield from _check_rows("data", options.data, yields)
    yield from _check_rows("held_out", options.held_out, yields)
    yield from _check_template(options, needs_markers)
    yield from _check_hardware(options)


def _check_rows(option: str, sources: Mapping[str, Use[Source]], wanted: str) -> Iterator[str]:
    for name, use in sources.items():
        found = use.component.yields(use.options)
        if found != wanted:
            yield f"'{option}.{name}': source '{use.name}' yields {found} rows with these options, not {wanted} rows"


def _check_template(options: TrainingOptions, needs_markers: bool) -> Iterator[str]:
    path = template_path(options.chat_template)
    if not path.is_file():
        yield f"'chat_template': there is no file {path}; the built-in templates are {', '.join(BUILT_IN)}"
        return
    try:
        text = template_text(options.chat_template)
    except (OSError, UnicodeDecodeError) as error:
        yield f"'chat_template': {path} cannot be read as text ({error})"
        return
    if isinstance(options.chat_template, Path) and find_spec("jinja2") is not None:
        from smolrecipe_trl.template_reading import read_template

        try:
            read_template(text)
        except StageError as error:
            yield f"'chat_template': {path.name}: {error}"
            return
    if needs_markers and not marks_assistant(text):
        yield (
            f"'chat_template': {path.name} has no {{% generation %}} markers, so it does not say what the assistant "
            "wrote; put them around the assistant's turn"
        )


def _check_hardware(options: TrainingOptions) -> Iterator[str]:
    layout = options.parallelism
    rows = options.micro_batch * layout.processes
    if options.global_batch % rows:
        yield (
            f"'global_batch' is {options.global_batch} rows, which {layout.processes} process(es) with a micro_batch "
            f"of {options.micro_batch} cannot share evenly: make it a multiple of {rows}"
        )
    if layout.device == "cpu":
        if layout.sharding == "fsdp2":
            yield "'parallelism.sharding': fsdp2 runs on cuda only; on cpu processes hold the whole model each"
        if options.attention in ("flash", "flex"):
            lack = "has no cpu kernel" if options.attention == "flash" else "has no backward pass on cpu"
            yield f"'attention': {options.attention} {lack}; use sdpa or auto"
    elif options.attention == "flash" and find_spec("flash_attn") is None:
        yield "'attention' is flash, but flash-attn is not installed: pip install 'smolrecipe[flash]', or use auto"
