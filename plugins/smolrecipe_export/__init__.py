"""Export: the folder that users of a finished model load, checked by loading it as they will."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Literal

from attrs import frozen

from smolrecipe import (
    Artifact,
    ModelComponent,
    Proof,
    StageContext,
    StageKind,
    StageRef,
    Use,
    Workload,
    hookimpl,
    option,
)


@frozen(kw_only=True)
class GenerationOptions:
    """How the model generates where its user says nothing else; what is not given here stays as the stage left it."""

    temperature: float | None = option(default=None, more_than=0, doc="divides the logits before sampling")
    top_p: float | None = option(
        default=None, more_than=0, at_most=1, doc="sample from the likeliest tokens that together have this probability"
    )
    top_k: int | None = option(default=None, at_least=0, doc="sample from this many likeliest tokens; 0: from all")
    repetition_penalty: float | None = option(
        default=None, more_than=0, doc="divides the logits of tokens that have occurred; 1: none"
    )
    do_sample: bool | None = option(
        default=None, doc="sample, or take the likeliest token; without it, sample where a sampling setting is given"
    )

    @property
    def sampling(self) -> dict[str, float]:
        """The settings given that only sampling uses."""
        given = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        return {key: value for key, value in given.items() if value is not None}


@frozen(kw_only=True)
class ExportOptions:
    """The options of the ``export`` stage."""

    from_: StageRef = option(needs="hf-model", doc="the stage whose model is exported")
    components: Mapping[str, Use[ModelComponent]] = option(
        factory=dict,
        doc="model components added to the finished model's configuration, for example yarn; they change no weight",
    )
    chat_template: Path | None = option(
        default=None, doc="a Jinja file with the chat template to ship; without it the stage's own stays"
    )
    generation: GenerationOptions = option(
        factory=GenerationOptions, doc="default generation settings, written to generation_config.json"
    )
    dtype: Literal["keep", "bfloat16", "float16", "float32"] = option(
        default="keep", doc="the dtype of the exported weights"
    )


def run(options: ExportOptions, context: StageContext) -> Artifact:
    """Write and check the folder, see ``smolrecipe_export.export``."""
    from smolrecipe_export.export import export

    return export(options, context)


def verify(options: ExportOptions, context: StageContext) -> Iterable[Proof]:
    """Compare the exported model with its source and its configuration, see ``smolrecipe_export.proofs``."""
    from smolrecipe_export.proofs import proofs

    return proofs(options, context)


def check(options: ExportOptions) -> Iterable[str]:
    """Components that a Hugging Face model cannot have, settings that contradict each other."""
    for name, use in options.components.items():
        if use.component.to_hf is None:
            yield f"model component '{name}' ({use.name}) has no counterpart in transformers: it cannot be exported"
    if options.generation.do_sample is False and options.generation.sampling:
        yield f"'generation' says not to sample, so {', '.join(options.generation.sampling)} would have no effect"


def missing(options: ExportOptions) -> Iterable[str]:
    """A chat template that is not there."""
    if options.chat_template is not None and not options.chat_template.is_file():
        yield f"'chat_template': there is no file {options.chat_template}"


def workload(options: ExportOptions, parents: Mapping[str, Workload]) -> Workload:
    """No training; the model with the components that are added."""
    config = deepcopy(parents[options.from_.stage].model)
    if config is not None:
        for use in options.components.values():
            if use.component.to_hf is not None:
                use.component.to_hf(config, use.options)
    return Workload(model=config)


@hookimpl
def smolrecipe_stages() -> Iterable[StageKind]:
    """Offer ``export``."""
    yield StageKind(
        name="export",
        example={"from": "merge"},
        summary="write the model as plain transformers loads it, load it so, and generate",
        source="transformers: config.json, generation_config.json, tokenizer_config.json",
        options=ExportOptions,
        check=check,
        missing=missing,
        requires=("torch", "transformers"),
        extra="export",
        run=run,
        verify=verify,
        workload=workload,
        produces=lambda options: {"hf-model": True},
    )
