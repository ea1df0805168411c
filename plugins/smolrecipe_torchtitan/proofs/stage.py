"""What a published pretraining stage can be held to: its rates, its weights, its optimizer, its data and masks."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch  # noqa: TID253

from smolrecipe import Proof, StageContext
from smolrecipe.stage import CHECKPOINTS_FOLDER, MODEL_FOLDER
from smolrecipe_torchtitan.checkpoints import steps_of
from smolrecipe_torchtitan.checks import produces, published_steps
from smolrecipe_torchtitan.hugging_face import DTYPES, config_differences, hf_names
from smolrecipe_torchtitan.options import PretrainOptions
from smolrecipe_torchtitan.proofs.cpu_model import draft_on_cpu, shapes_of
from smolrecipe_torchtitan.proofs.rows import verify_rows
from smolrecipe_torchtitan.proofs.stored import StoredTensors
from smolrecipe_torchtitan.sealed import Contents, SavedTensor, damage_of, read_contents, read_tensors
from smolrecipe_torchtitan.start import NOT_WEIGHTS, POSITION, Shapes, Start, find_start, is_ours

RATE_BOUND = 1e-6
"""Of a learning rate, relative: a rate is a double that went through JSON."""

AT_ONCE = 10**9
"""Bytes of a checkpoint that are read together."""


def verify(options: PretrainOptions, context: StageContext) -> Iterator[Proof]:
    """Yield what is found of the stage that ``context.folder`` holds."""
    summary = context.record()["summary"]
    start = find_start(options, context)
    yield _trajectory(summary, start.step)
    yield from _rates(options, context, start.step)

    last = start.step + options.steps
    checkpoints = {
        step: path
        for step, path in steps_of(context.folder / CHECKPOINTS_FOLDER).items()
        if is_ours(path) or not (path / MODEL_FOLDER).is_dir()
    }
    whole = _checkpoints(checkpoints, last)
    yield whole
    if not whole.holds:
        return
    draft = draft_on_cpu(options.model, options.sequence_length)
    tied = bool(draft.decoder.enable_weight_tying)
    shapes = {name: shape for name, shape in shapes_of(draft).items() if not (tied and name == "lm_head.weight")}
    contents = read_contents(checkpoints[last])
    yield _parameters(contents, shapes, summary, tied=tied)
    yield from _optimizer(options, contents, shapes, last)
    if produces(options)["hf-model"] is True:
        names = hf_names(shapes, draft.hf_parameters, tied=tied)
        dtype = DTYPES[options.export_dtype or options.precision]
        yield _exported(checkpoints[last], StoredTensors(context.folder / MODEL_FOLDER), names, dtype)
        yield _configured(options, context.folder / MODEL_FOLDER)
    if options.publish_every is not None:
        yield _published(options, context.folder / CHECKPOINTS_FOLDER, start.step)
    yield from verify_rows(options, context, start, draft, read_tensors(checkpoints[last], shapes))
    yield from _data(options, context, start, contents, summary)


def _published(options: PretrainOptions, folder: Path, before: int) -> Proof:
    """Whether the models on the way are those that were asked for, each of another step than all others."""
    due = {f"step-{step}" for step in published_steps(options, before)}
    there = {path.parent.name for path in folder.glob(f"*/{MODEL_FOLDER}")}
    wrong = [*(f"{name} is missing" for name in due - there), *(f"{name} was not asked for" for name in there - due)]
    weights: dict[str, str] = {}
    for name in sorted(due & there):
        files = sorted((folder / name / MODEL_FOLDER).glob("*.safetensors"))
        content = "".join(map(_digest_of, files))
        if (other := weights.setdefault(content, name)) != name:
            wrong.append(f"{name} has the weights of {other}")
    return Proof.same(
        f"a model of every {options.publish_every:,} steps is published",
        len(wrong),
        len(due),
        of="models",
        note="; ".join(sorted(wrong)),
    )


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _configured(options: PretrainOptions, folder: Path) -> Proof:
    """Whether readers of ``config.json`` build the model that was trained."""
    wanted = options.model.to_hf()
    wrong = [
        f"{key} is {there!r}, in the recipe {asked!r}"
        for key, (there, asked) in config_differences(folder, wanted).items()
    ]
    lacking = sorted(wanted.keys() - json.loads((folder / "config.json").read_text(encoding="utf-8")).keys())
    wrong += [f"{key} is missing" for key in lacking]
    return Proof.same("config.json is the recipe's model", len(wrong), len(wanted), of="keys", note="; ".join(wrong))


def _data(
    options: PretrainOptions, context: StageContext, start: Start, contents: Contents, summary: Mapping[str, Any]
) -> Iterator[Proof]:
    """Where the data stands after the stage, and what the packer itself can prove of the samples consumed."""
    packer, samples = options.data, options.steps * options.global_batch
    wanted = (context, options.sequence_length, options.seed, start.position)
    due = dict(packer.component.open(packer.options, *wanted).position(samples))
    told = dict(contents.values.get(POSITION) or ())
    wrong = [
        f"'{key}' is {told.get(key)} and should be {due.get(key)}"
        for key in sorted(due | told)
        if due.get(key) != told.get(key)
    ]
    yield Proof.same(
        "a next stage would go on behind the last sample",
        len(wrong),
        len(due),
        of="positions",
        note="; ".join(wrong[:3]),
    )
    first = start.position or {}
    read = {key: count for key, value in told.items() if (count := value - first.get(key, 0))}
    said = summary.get("read", {})
    wrong = [f"'{key}' {said.get(key)}, not {read.get(key)}" for key in read | said if read.get(key) != said.get(key)]
    yield Proof.same(
        "what was read of each source is between two checkpoints",
        len(wrong),
        len(read),
        of="sources",
        note="; ".join(wrong[:3]),
    )
    if packer.component.verify is not None:
        yield from packer.component.verify(packer.options, *wanted, samples)


def _trajectory(summary: Mapping[str, Any], before: int) -> Proof:
    first = int(summary["first_step"])
    return Proof(
        claim="it begins where the stage before it ended",
        holds=first == before + 1,
        measured=f"step {first:,}",
        bound=f"step {before + 1:,}",
        note="" if first == before + 1 else "the checkpoint it continues from has another step",
    )


def _rates(options: PretrainOptions, context: StageContext, before: int) -> Iterator[Proof]:
    """The rate that the optimizer had in every step, and whether every step was made."""
    logged: dict[int, float] = {}  # a stage that was interrupted made its last steps again
    for event in context.events():
        if "step" in event:
            logged[event["step"]] = event["lr"]
    wanted = range(1, options.steps + 1)
    missing = [step for step in wanted if step not in logged]
    more = sorted(logged.keys() - set(wanted))
    yield Proof.same(
        "every step was made",
        len(missing) + len(more),
        options.steps,
        of="steps",
        note="; ".join(words for words in (_steps("missing", missing), _steps("beyond the last", more)) if words),
    )
    peak = max(group.settings["lr"] for group in options.optimizer.component.groups(options.optimizer.options))
    whole = options.trajectory_steps or before + options.steps
    schedule = options.schedule.component.factor
    worst, place = -1.0, ""
    for step in sorted(logged.keys() & set(wanted)):
        rate = schedule(options.schedule.options, before + step, whole) * peak
        off = abs(logged[step] - rate) / (rate or peak)
        if off > worst:
            worst, place = off, f"step {step} (of the trajectory: {before + step}): {logged[step]:.6g}, not {rate:.6g}"
    yield Proof.within("learning rates are the schedule's", worst if place else float("nan"), RATE_BOUND, note=place)


def _steps(what: str, steps: Sequence[int]) -> str:
    return f"{what}: {', '.join(map(str, steps[:5]))}{' ...' if len(steps) > 5 else ''}" if steps else ""


def _checkpoints(checkpoints: Mapping[int, Path], last: int) -> Proof:
    """Complete by the checksums that were written with them; the last one is that of the last step."""
    broken = [f"{path.name}: {damage}" for path in checkpoints.values() if (damage := damage_of(path)) is not None]
    if last not in checkpoints:
        broken.append(f"step-{last}, which is not there")
    return Proof.same(
        "checkpoints are whole, up to the last step",
        len(broken),
        max(len(checkpoints), 1),
        of="checkpoints",
        note=", ".join(broken),
    )


def _parameters(contents: Contents, shapes: Shapes, summary: Mapping[str, Any], *, tied: bool) -> Proof:
    """What lies in the checkpoint against what the components make and what the stage told."""
    held = {
        name: tensor.shape
        for name, tensor in contents.tensors.items()
        if not name.startswith(NOT_WEIGHTS) and not (tied and name == "lm_head.weight")
    }
    wrong = sorted(name for name in held.keys() | shapes.keys() if held.get(name) != shapes.get(name))
    count = sum(torch.Size(shape).numel() for shape in held.values())
    told = int(summary["parameters"])
    return Proof(
        claim="the checkpoint holds the model's parameters",
        holds=not wrong and count == told,
        measured=f"{count:,}",
        bound=f"{told:,}",
        note=f"other than the components make them: {', '.join(wrong[:5])}" if wrong else "",
    )


def _optimizer(options: PretrainOptions, contents: Contents, shapes: Shapes, last: int) -> Iterator[Proof]:
    """The settings that the optimizer had for each parameter when it was saved, against the recipe's groups."""
    use = options.optimizer
    groups = use.component.groups(use.options)
    whole = options.trajectory_steps or last
    # What is saved is the rate of the step to come.
    factor = options.schedule.component.factor(options.schedule.options, min(last + 1, whole), whole)
    prefix = "optimizer.param_groups."
    saved = {name.removeprefix(prefix): value for name, value in contents.values.items() if name.startswith(prefix)}
    wrong, compared, decays = [], 0, list[tuple[str, Any, Any]]()
    for name in shapes:
        group = next((group for group in groups if re.search(group.pattern, name)), None)
        if group is None:
            wrong.append(f"{name} is in no group")
            continue
        for key, value in group.settings.items():
            wanted = value * factor if key == "lr" else value
            found = saved.get(f"{name}.{key}", "missing")
            compared += 1
            if not _equal(found, wanted):
                wrong.append(f"{key} of {name} is {found} and not {wanted}")
            if key == "weight_decay":
                decays.append((name, found, wanted))
    yield Proof.same(
        "optimizer settings are the recipe's", len(wrong), compared, of="settings", note="; ".join(wrong[:3])
    )
    if decays:
        other = [name for name, found, wanted in decays if (found != 0) != (wanted != 0)]
        spared = sum(1 for _, found, _ in decays if found == 0)
        yield Proof(
            claim="weight decay is on exactly its parameters",
            holds=not other,
            measured=f"{len(decays) - spared} with, {spared} without",
            bound=f"{sum(1 for *_, wanted in decays if wanted)} with, {sum(1 for *_, wanted in decays if not wanted)} "
            "without",
            note=", ".join(other[:5]),
        )


def _equal(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, float) and isinstance(found, (int, float)):
        return abs(found - wanted) <= RATE_BOUND * abs(wanted)
    return bool(list(found) == list(wanted)) if isinstance(wanted, (list, tuple)) else bool(found == wanted)


def _exported(checkpoint: Path, stored: StoredTensors, names: Mapping[str, str], dtype: torch.dtype) -> Proof:
    """Every tensor of the Hugging Face folder against the checkpoint's, bit for bit after the cast."""
    held = read_contents(checkpoint).tensors
    there = set(stored.names)
    wrong = [f"{name} is one too many" for name in sorted(there - set(names.values()))]
    for part in _parts(names, held):
        for titan, tensor in read_tensors(checkpoint, part).items():
            name = names[titan]
            if name not in there:
                wrong.append(f"{name} is missing")
            elif not _same_bits(stored.read(name), tensor.to(dtype)):
                wrong.append(f"{name} is not {titan}")
    return Proof.same(
        "model/ is the last checkpoint, bit for bit",
        len(wrong),
        len(there | set(names.values())),
        of="tensors",
        note=", ".join(wrong[:5]),
    )


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))


def _parts(names: Mapping[str, str], held: Mapping[str, SavedTensor]) -> Iterator[list[str]]:
    part: list[str] = []
    size = 0
    for name in names:
        nbytes = torch.Size(held[name].shape).numel() * held[name].dtype.itemsize if name in held else 0
        if part and size + nbytes > AT_ONCE:
            yield part
            part, size = [], 0
        part.append(name)
        size += nbytes
    if part:
        yield part
