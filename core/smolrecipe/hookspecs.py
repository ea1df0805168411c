"""The hooks that a plugin may implement.

A plugin is an importable object (usually a package) named by an entry point in the group ``smolrecipe``::

    [project.entry-points.smolrecipe]
    simpo = "smolrecipe_simpo"

It implements the hooks it wants with ``@smolrecipe.hookimpl``. The plural hooks are called once and collected into the
catalog; two plugins that offer one name are an error that names both.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

from smolrecipe.components import (
    Launcher,
    Loss,
    ModelComponent,
    Optimizer,
    Packer,
    Schedule,
    Source,
    StageKind,
    Tracker,
)
from smolrecipe.errors import Problem
from smolrecipe.options import Model
from smolrecipe.proof import Proof
from smolrecipe.stage import Artifact, StageContext

if TYPE_CHECKING:
    import click

    from smolrecipe.planning.plan import Plan

PROJECT = "smolrecipe"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def smolrecipe_stages() -> Iterable[StageKind]:
    """Offer stage kinds, which a recipe names with ``use:`` under ``stages:``.

    Example::

        @smolrecipe.hookimpl
        def smolrecipe_stages():
            yield StageKind(name="merge", summary="merge checkpoints", options=MergeOptions, run=run,
                            produces=lambda options: {"hf-model": True})
    """
    raise NotImplementedError


@hookspec
def smolrecipe_model_components() -> Iterable[ModelComponent]:
    """Offer model components, which a recipe names with ``use:`` under ``model:``.

    Example::

        @smolrecipe.hookimpl
        def smolrecipe_model_components():
            yield ModelComponent(name="nope", summary="no rotary embedding in every n-th layer",
                                 source="arXiv:2501.18795", options=NopeOptions, apply=apply, to_hf=to_hf)
    """
    raise NotImplementedError


@hookspec
def smolrecipe_optimizers() -> Iterable[Optimizer]:
    """Offer optimizers.

    Example::

        @smolrecipe.hookimpl
        def smolrecipe_optimizers():
            yield Optimizer(name="adamw", summary="AdamW", options=AdamWOptions, factory=factory, groups=groups)
    """
    raise NotImplementedError


@hookspec
def smolrecipe_schedules() -> Iterable[Schedule]:
    """Offer learning-rate schedules.

    Example::

        @smolrecipe.hookimpl
        def smolrecipe_schedules():
            yield Schedule(name="constant", summary="the peak rate throughout", factor=lambda options, step, steps: 1.0)
    """
    raise NotImplementedError


@hookspec
def smolrecipe_losses() -> Iterable[Loss]:
    """Offer preference losses.

    Example::

        @smolrecipe.hookimpl
        def smolrecipe_losses():
            yield Loss(name="simpo", summary="SimPO", source="arXiv:2405.14734, equation 6", options=SimpoOptions,
                       loss=simpo, needs_reference=False)
    """
    raise NotImplementedError


@hookspec
def smolrecipe_sources() -> Iterable[Source]:
    """Offer data sources.

    Example::

        @smolrecipe.hookimpl
        def smolrecipe_sources():
            yield Source(name="jsonl", summary="local JSON lines", options=JsonlOptions, read=read,
                         yields=lambda options: "text")
    """
    raise NotImplementedError


@hookspec
def smolrecipe_packers() -> Iterable[Packer]:
    """Offer packing strategies: how token files become training samples.

    Example::

        @smolrecipe.hookimpl
        def smolrecipe_packers():
            yield Packer(name="mixture", summary="weighted sources", options=MixtureOptions, open=open_mixture)
    """
    raise NotImplementedError


@hookspec
def smolrecipe_trackers() -> Iterable[Tracker]:
    """Offer trackers: where metrics go besides ``metrics.jsonl``.

    Example::

        @smolrecipe.hookimpl
        def smolrecipe_trackers():
            yield Tracker(name="print", summary="to standard output", open=lambda options, context: print)
    """
    raise NotImplementedError


@hookspec
def smolrecipe_launchers() -> Iterable[Launcher]:
    """Offer launchers: how a stage's processes start.

    Example::

        @smolrecipe.hookimpl
        def smolrecipe_launchers():
            yield Launcher(name="local", summary="on this machine", capacity=capacity, command=command)
    """
    raise NotImplementedError


@hookspec
def smolrecipe_check_plan(plan: Plan) -> Iterable[Problem]:
    """Report what is wrong with a plan, before anything runs.

    Example::

        @smolrecipe.hookimpl
        def smolrecipe_check_plan(plan):
            for stage in plan.stages:
                if stage.name != stage.name.lower():
                    yield Problem(f"stage '{stage.name}': names are lower case here", stage.place)
    """
    raise NotImplementedError


@hookspec
def smolrecipe_before_stage(run: StageContext) -> None:
    """Act before a stage that really runs (one that is published already does not).

    Called in the stage's own process on every rank.

    Example::

        @smolrecipe.hookimpl
        def smolrecipe_before_stage(run):
            print("starting", run.stage)
    """


@hookspec
def smolrecipe_after_stage(run: StageContext, artifact: Artifact) -> None:
    """Act after a stage that really ran, before its artifact is published.

    Called in the stage's own process on every rank.

    Example::

        @smolrecipe.hookimpl
        def smolrecipe_after_stage(run, artifact):
            (run.folder / "note.txt").write_text("done")
    """


@hookspec
def smolrecipe_verify_model(folder: Path, model: Model) -> Iterable[Proof]:
    """Compare a Hugging Face checkpoint with what this plugin knows of it; it only reads.

    ``folder`` holds safetensors, ``config.json`` and usually a tokenizer; ``model`` is what the installed model
    components read from its ``config.json``. Called by ``smolrecipe verify``, in a process of its own, for every
    checkpoint of a run and for one that was made elsewhere.

    Example::

        @smolrecipe.hookimpl
        def smolrecipe_verify_model(folder, model):
            size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
            yield Proof.within("the weights fit a phone", size / 2**30, 4, unit="GiB")
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def smolrecipe_find_recipe(reference: str) -> Path | None:
    """Return the file of the recipe that ``reference`` names, or ``None`` to let the next plugin look.

    Asked only for a reference that is neither a file nor a recipe that ships with smolrecipe.

    Example::

        @smolrecipe.hookimpl
        def smolrecipe_find_recipe(reference):
            if reference.startswith("team:"):
                return Path("/team/recipes") / reference.removeprefix("team:")
    """


@hookspec
def smolrecipe_commands(cli: click.Group) -> None:
    """Add commands to the command line.

    Example::

        @smolrecipe.hookimpl
        def smolrecipe_commands(cli):
            @cli.command()
            def hello():
                click.echo("hello")
    """
