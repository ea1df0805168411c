"""Data made by a teacher: the stage kind ``synthesize``, and the source ``synthesized`` that reads what it made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from smolrecipe import (
    Artifact,
    Devices,
    Problem,
    Proof,
    Source,
    StageContext,
    StageKind,
    hookimpl,
)
from smolrecipe_synthesize import checks
from smolrecipe_synthesize.options import SynthesizedOptions, SynthesizeOptions
from smolrecipe_synthesize.workload import workload_of

if TYPE_CHECKING:
    from smolrecipe.planning.plan import Plan


def _run(options: SynthesizeOptions, context: StageContext) -> Artifact:
    """Ask the models for what is not answered yet, filter, and write the rows.

    Every answer is appended to a file of its process and brought to the disk before the next is waited for, so that an
    interruption loses those that are being made, and none is asked for twice.

    Raises:
        StageError: when prompts cannot be read, a model cannot be asked any more, or no row is left.
    """
    from smolrecipe_synthesize.synthesize import synthesize

    return synthesize(options, context)


def _verify(options: SynthesizeOptions, context: StageContext) -> Iterable[Proof]:
    """Read prompts and answers again and hold the rows against them; ask the filters again for what they keep."""
    from smolrecipe_synthesize.proofs import proofs

    return proofs(options, context)


def _read(options: SynthesizedOptions) -> Iterator[Mapping[str, Any]]:
    """Yield the rows that the stage has published.

    Raises:
        StageError: when they are not there, or not those of its mode.
    """
    from smolrecipe_synthesize.row_files import read

    return read(options)


def _devices(options: SynthesizeOptions) -> Devices:
    models = [options.teacher, *([] if options.rejected is None else [options.rejected])]
    on_cuda = any(use.component.device(use.options) == "cuda" for use in models)
    return Devices(processes=options.processes, device="cuda" if on_cuda else "cpu", memory_gib=options.memory_gib)


@hookimpl
def smolrecipe_stages() -> Iterable[StageKind]:
    """Offer ``synthesize``."""
    yield StageKind(
        name="synthesize",
        summary="have a model write chats, or pairs with another, from prompts; filtered, durable, resumable",
        source="SmolLM3's synthetic splits: Qwen3-32B's answers, and preferred to Qwen3-0.6B's",
        options=SynthesizeOptions,
        check=checks.check,
        run=_run,
        verify=_verify,
        devices=_devices,
        workload=workload_of,
        produces=checks.products,
        example={
            "prompts": {"sums": {"use": "arithmetic", "style": "problems", "split": "train"}},
            "teacher": {"use": "transformers", "model": "sft"},
        },
    )


@hookimpl
def smolrecipe_sources() -> Iterable[Source]:
    """Offer ``synthesized``."""
    yield Source(
        name="synthesized",
        summary="the chats or pairs that a stage of this recipe made",
        options=SynthesizedOptions,
        read=_read,
        yields=lambda options: options.yields,
        origins=lambda options: [str(options.from_)],
        example={"from": "reasoning-pairs", "yields": "preference"},
    )


@hookimpl
def smolrecipe_check_plan(plan: Plan) -> Iterable[Problem]:
    """Report sources that take pairs for chats, or chats for pairs."""
    return checks.check_plan(plan)
