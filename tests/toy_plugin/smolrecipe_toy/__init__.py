"""A plugin with no engine behind it, installed as a stranger's would be: what the tests of core and registry run."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from attrs import frozen

import smolrecipe
from smolrecipe import (
    Artifact,
    Devices,
    Launcher,
    Loss,
    Measure,
    Model,
    ModelComponent,
    Schedule,
    Source,
    StageError,
    StageKind,
    StageRef,
    Tracker,
    Use,
    option,
)


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
        state.write_text(json.dumps(number))
        context.progress(number - start, options.to, loss=1.0 / number)
        time.sleep(options.seconds)
    if options.behave == "crash":
        raise ZeroDivisionError("a bug")
    context.say(f"counted in process {os.getpid()}")
    (context.folder / "number.json").write_text(json.dumps(number))
    state.unlink(missing_ok=True)
    return Artifact(measures=(Measure(name="number", before=start, after=number),), summary={"number": number})


@frozen(kw_only=True)
class BuildOptions:
    model: Model = option(doc="the model")
    from_: StageRef | None = option(default=None, needs="number", doc="a stage it waits for")


def build(options: BuildOptions, context: smolrecipe.StageContext) -> Artifact:
    (context.folder / "model.json").write_text(json.dumps(list(options.model.components)))
    return Artifact()


def _hf(options: BuildOptions) -> Mapping[str, str]:
    for name, use in options.model.components.items():
        if use.component.to_hf is None:
            return {"hf-model": f"model component '{name}' has no Hugging Face counterpart"}
    return {"hf-model": True}


@frozen(kw_only=True)
class UseModelOptions:
    from_: StageRef = option(needs="hf-model", doc="a stage with a model")


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
    )
    yield StageKind(name="build", summary="build", options=BuildOptions, run=build, produces=_hf)
    yield StageKind(
        name="use_model", summary="use", options=UseModelOptions, run=build, produces=lambda options: {"hf-model": True}
    )


@smolrecipe.hookimpl
def smolrecipe_model_components():
    yield ModelComponent(
        name="layers", summary="layers", options=Layers, apply=lambda d, o: None, to_hf=lambda c, o: None
    )
    yield ModelComponent(name="odd", summary="no counterpart", apply=lambda d, o: None, to_hf=None)


@smolrecipe.hookimpl
def smolrecipe_schedules():
    yield Schedule(name="ramp", summary="ramp", options=RampOptions, factor=lambda o, step, steps: step / steps)


@smolrecipe.hookimpl
def smolrecipe_losses():
    yield Loss(name="toy_loss", summary="loss", loss=lambda batch, options: None)


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
