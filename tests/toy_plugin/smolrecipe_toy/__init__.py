"""A plugin with no engine behind it, installed as a stranger's would be: what the tests of core and registry run."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from attrs import frozen

import smolrecipe
from smolrecipe import (
    Artifact,
    Devices,
    DryRun,
    Launcher,
    Loss,
    Measure,
    Model,
    ModelComponent,
    Proof,
    Schedule,
    Source,
    StageError,
    StageKind,
    StageRef,
    Tracker,
    Use,
    option,
)

HERE = "this file"
MODEL = {"layers": {"use": "layers", "count": 3}}


@frozen(kw_only=True)
class Layers:
    count: int = option(default=2, at_least=1, doc="layers")
    kind: Literal["wide", "deep"] = option(default="wide", doc="shape")


@frozen(kw_only=True)
class WordsOptions:
    words: tuple[str, ...] = option(default=("a", "b"), doc="what it yields")
    file: Path | None = option(default=None, doc="more words, one a line")


@frozen(kw_only=True)
class RampOptions:
    steps: int = option(default=1, doc="length")


@frozen(kw_only=True)
class CountOptions:
    to: int = option(doc="count to this", at_least=1)
    seconds: float = option(default=0.0, at_least=0.0, doc="pause after each number", identity=False)
    behave: Literal["well", "refuse", "crash"] = option(default="well", doc="how it ends")
    from_: StageRef | None = option(default=None, needs="number", doc="a stage whose number it starts at")
    schedule: Use[Schedule] | None = option(default=None, doc="a nested component")
    data: Mapping[str, Use[Source]] = option(factory=dict, doc="nested components by name")
    model: Model | None = option(default=None, doc="unused: not of type Model")
    layers: Layers = option(factory=Layers, doc="nested options")
    pair: tuple[float, float] = option(default=(0.5, 0.5), doc="two numbers")
    flag: bool = option(default=False, doc="true or false")
    label: str | None = option(default=None, doc="text or nothing")
    processes: int = option(default=1, identity=False, doc="processes")
    device: Literal["cpu", "cuda"] = option(default="cpu", identity=False, doc="device")


def count(options: CountOptions, context: smolrecipe.StageContext) -> Artifact:
    """Count, one step a number, keeping the last number on disk."""
    state = context.folder / "state.json"
    start = json.loads(context.input(options.from_, "number.json").read_text()) if options.from_ else 0
    number = json.loads(state.read_text()) if state.exists() else start
    if options.behave == "refuse":
        raise StageError("this stage refuses: set behave to 'well'")
    while number < start + options.to:
        number += 1
        beside = context.folder / "state.new"  # a kill between opening and writing would leave an empty file
        beside.write_text(json.dumps(number))
        beside.replace(state)
        context.progress(number - start, options.to, loss=1.0 / number)
        time.sleep(options.seconds)
    if options.behave == "crash":
        raise ZeroDivisionError("a bug")
    context.say(f"counted in process {os.getpid()}")
    (context.folder / "number.json").write_text(json.dumps(number))
    state.unlink(missing_ok=True)
    return Artifact(measures=(Measure(name="number", before=start, after=number),), summary={"number": number})


def recount(options: CountOptions, context: smolrecipe.StageContext) -> Iterator[Proof]:
    """Prove the published number; ``label`` says how the check itself behaves."""
    number = json.loads((context.folder / "number.json").read_text())
    start = json.loads(context.input(options.from_, "number.json").read_text()) if options.from_ else 0
    yield Proof.within("the number is what counting gives", abs(number - start - options.to), 0, note=f"it is {number}")
    if options.label == "check crashes":
        raise ZeroDivisionError("a bug in the check")
    if options.label == "check dies":
        os.kill(os.getpid(), signal.SIGKILL)


@frozen(kw_only=True)
class BuildOptions:
    model: Model = option(doc="the model")
    from_: StageRef | None = option(default=None, needs="number", doc="a stage it waits for")


def build(options: BuildOptions, context: smolrecipe.StageContext) -> Artifact:
    (context.folder / "model.json").write_text(json.dumps(list(options.model.components)))
    (context.folder / "model").mkdir(exist_ok=True)
    (context.folder / "model" / "config.json").write_text(json.dumps(options.model.to_hf()))
    return Artifact()


@frozen(kw_only=True)
class BringInOptions:
    reference: str = option(doc="what the recipe wrote")


def bring_in(options: BringInOptions, context: smolrecipe.StageContext) -> Artifact:
    (context.folder / "number.json").write_text(str(len(options.reference)))
    return Artifact(summary={"reference": options.reference})


def _hf(options: BuildOptions) -> Mapping[str, str]:
    for name, use in options.model.components.items():
        if use.component.to_hf is None:
            return {"hf-model": f"model component '{name}' has no Hugging Face counterpart"}
    return {"hf-model": True}


def dry_run(options: CountOptions) -> DryRun:
    """Counting at the size of a 3B model, for the arithmetic of the table."""
    if options.behave == "refuse":
        raise StageError("this layout cannot be built: set behave to 'well'")
    if options.behave == "crash":
        raise ZeroDivisionError("a bug in the dry run")
    return DryRun(
        parameters=3 * 10**9,
        devices=options.processes,
        weight_bytes=6 * 2**30,
        gradient_bytes=6 * 2**30,
        optimizer_bytes=12 * 2**30,
        activation_bytes=(120 if options.seconds else 20) * 2**30,
        other_bytes=2**30,
        flops_per_token=2e10,
        tokens_per_step=2 * 10**6,
        steps=options.to,
    )


@frozen(kw_only=True)
class UseModelOptions:
    from_: StageRef = option(needs="hf-model", doc="a stage with a model")


@frozen(kw_only=True)
class TakeOptions:
    from_: StageRef | None = option(default=None, needs=("number", "hf-model"), doc="a stage with either")
    folder: Path | None = option(default=None, doc="a folder whose content matters")


@frozen(kw_only=True)
class DirectOptions:
    gpus: int = option(default=0, doc="GPUs it claims to have")


def _command(options: DirectOptions, devices: Devices, worker: object) -> list[str]:
    return [sys.executable, "-m", *worker]


def _missing_file(options: WordsOptions) -> list[str]:
    return [f"there is no file {options.file}"] if options.file is not None and not options.file.is_file() else []


@smolrecipe.hookimpl
def smolrecipe_stages():
    yield StageKind(
        name="count",
        summary="count",
        options=CountOptions,
        run=count,
        produces=lambda options: {"number": True},
        devices=lambda options: Devices(processes=options.processes, device=options.device, memory_gib=80),
        verify=recount,
        dry_run=dry_run,
        example={"to": 3},
    )
    yield StageKind(
        name="bring_in",
        summary="bring in",
        options=BringInOptions,
        run=bring_in,
        produces=lambda options: {"number": True, "hf-model": True},
        imports=lambda reference: BringInOptions(reference=reference),
        example={"reference": "org/name"},
    )
    yield StageKind(
        name="build", summary="build", options=BuildOptions, run=build, produces=_hf, example={"model": MODEL}
    )
    yield StageKind(
        name="take", summary="take", options=TakeOptions, run=build, produces=lambda options: {"number": True}
    )
    yield StageKind(
        name="use_model",
        summary="use",
        options=UseModelOptions,
        run=build,
        produces=lambda options: {"hf-model": True},
        example={"from": "built"},
    )


@smolrecipe.hookimpl
def smolrecipe_model_components():
    yield ModelComponent(
        name="layers",
        summary="layers",
        options=Layers,
        apply=lambda d, o: None,
        to_hf=lambda config, options: config.update(layers=options.count, kind=options.kind),
        from_hf=_layers_of,
        source=HERE,
    )
    yield ModelComponent(name="odd", summary="no counterpart", source=HERE, apply=lambda d, o: None, to_hf=None)
    yield ModelComponent(
        name="doubled",
        summary="twice the layers",
        source=HERE,
        apply=lambda d, o: None,
        to_hf=lambda config, options: config.update(layers=2 * config["layers"]),
        after=("layers",),
    )


def _layers_of(config):
    if config.get("kind") not in (None, "wide", "deep"):
        raise StageError(f"kind '{config['kind']}' is none that layers have")
    return Layers(count=config["layers"], kind="wide") if "layers" in config else None


@smolrecipe.hookimpl
def smolrecipe_verify_model(folder, model):
    weights = folder / "weights.txt"
    yield Proof.same("weights are not there yet", int(weights.exists()), len(model.components), of="components")


def _ramp(options, step, steps):
    return step / steps


@smolrecipe.hookimpl
def smolrecipe_schedules():
    yield Schedule(name="ramp", summary="ramp", options=RampOptions, source=HERE, factor=_ramp)


@smolrecipe.hookimpl
def smolrecipe_losses():
    yield Loss(name="toy_loss", summary="loss", source=HERE, loss=lambda batch, options: None)


@smolrecipe.hookimpl
def smolrecipe_sources():
    yield Source(
        name="words",
        summary="words",
        options=WordsOptions,
        read=lambda options: ({"text": word} for word in options.words),
        yields=lambda options: "text",
        fingerprint=lambda options: options.file.read_text() if options.file and options.file.is_file() else "",
        check=lambda options: [] if options.words else ["'words' is empty: name at least one"],
        missing=_missing_file,
    )


@smolrecipe.hookimpl
def smolrecipe_launchers():
    yield Launcher(
        name="direct",
        summary="one process",
        options=DirectOptions,
        capacity=lambda options: {"cuda": options.gpus},
        command=_command,
    )


@smolrecipe.hookimpl
def smolrecipe_trackers():
    def open_file(options, context):
        path = context.folder / "tracked.txt"
        return lambda event: path.open("a").write(f"{sorted(event)}\n")

    yield Tracker(name="file", summary="to a file", open=open_file)
