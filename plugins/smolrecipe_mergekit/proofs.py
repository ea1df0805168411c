"""What ``verify`` finds out about a merge: each tensor against the models that it was made of, in float64.

mergekit has no part in it. Tensors are read some rows at a time, so that memory does not grow with the model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch  # noqa: TID253
from attrs import frozen
from safetensors import safe_open

from smolrecipe import Proof, StageContext
from smolrecipe.checkpoint import check_checkpoint, companion_files, weight_files
from smolrecipe.stage import MODEL_FOLDER
from smolrecipe_mergekit.options import MergeOptions

FLOAT32 = torch.finfo(torch.float32).eps
SUM_ROUNDINGS = 4
"""A sum in float32 errs by a few units of its largest terms before it is rounded to the result's dtype."""

_MOST_ELEMENTS = 2**24
_OF_THE_DTYPE = ("dtype", "torch_dtype")


class Weights:
    """The tensors of a checkpoint in safetensors, each found by name and read a slice of rows at a time."""

    def __init__(self, name: str, folder: Path) -> None:
        """Open the files of the checkpoint that stage ``name`` published in ``folder``."""
        self.name = name
        self._files: dict[str, Any] = {}
        check_checkpoint(folder)
        for file in weight_files(folder):
            opened = safe_open(file, framework="pt")
            self._files |= dict.fromkeys(opened.keys(), opened)

    @property
    def keys(self) -> set[str]:
        """The names of all tensors."""
        return set(self._files)

    def shape(self, key: str) -> tuple[int, ...]:
        """The tensor's shape."""
        return tuple(self._files[key].get_slice(key).get_shape())

    def rows(self, key: str, first: int, stop: int) -> torch.Tensor:
        """Rows ``first`` to ``stop`` - 1 of the tensor, in its own dtype."""
        file = self._files[key]
        part: torch.Tensor = file.get_slice(key)[first:stop] if self.shape(key) else file.get_tensor(key)
        return part


def proofs(options: MergeOptions, context: StageContext) -> Iterator[Proof]:
    """Proofs about a merged model.

    That its values are right is proved for ``linear`` with one weight per model. Of other methods only what holds for
    any merge: names, shapes, dtype and finite values.
    """
    merged = Weights("the merge", context.folder / MODEL_FOLDER)
    base_folder = context.input(options.base)
    base = Weights(str(options.base), base_folder)
    differing = sorted(merged.keys ^ base.keys)
    both = sorted(merged.keys & base.keys)
    differing += [key for key in both if merged.shape(key) != base.shape(key)]
    yield Proof.same(
        "tensors have the base's names and shapes",
        len(differing),
        len(merged.keys | base.keys),
        of="tensors",
        note=", ".join(differing[:3]),
    )
    config = json.loads((context.folder / MODEL_FOLDER / "config.json").read_text(encoding="utf-8"))
    yield from _all_values(merged, str(config.get("dtype")), options.out_dtype)
    yield _base_files(base_folder, context.folder / MODEL_FOLDER, str(options.base))
    shares = linear_shares(options)
    if shares is not None:
        members = {
            name: Weights(name, context.input(member.from_))
            for member, name in zip(options.models, shares, strict=True)
        }
        yield _weighted_sum(merged, members, shares)


def linear_shares(options: MergeOptions) -> dict[str, float] | None:
    """What each model counts in a linear merge, as the options ask for; ``None`` for any other merge."""
    if options.method != "linear" or options.defined_in:
        return None
    shared = options.parameters.get("weight")
    weights: dict[str, float] = {}
    for member in options.models:
        given = [value for value in (member.weight, member.parameters.get("weight"), shared) if value is not None]
        if not given or isinstance(given[0], bool) or not isinstance(given[0], (int, float)):
            return None  # another weight for each layer or part
        weights[str(member.from_)] = float(given[0])
    normalize = options.normalize if options.normalize is not None else options.parameters.get("normalize", True)
    if not isinstance(normalize, bool):
        return None
    total = math.fsum(weights.values()) if normalize else 1.0
    return {name: weight / total for name, weight in weights.items()}


def _all_values(merged: Weights, dtype: str, asked: str | None) -> Iterator[Proof]:
    broken, other = [], []
    for key in sorted(merged.keys):
        found = None
        finite = True
        for first, stop in _slices(merged.shape(key)):
            part = merged.rows(key, first, stop)
            found = part.dtype
            finite = finite and bool(torch.isfinite(part).all())
        if not finite:
            broken.append(key)
        if str(found) != f"torch.{dtype}" or (asked is not None and dtype != asked):
            other.append(f"{key} {found}")
    yield Proof.same("all values are finite", len(broken), len(merged.keys), of="tensors", note=", ".join(broken[:3]))
    yield Proof.same(
        f"weights and config are {asked or dtype}",
        len(other),
        len(merged.keys),
        of="tensors",
        note=", ".join(other[:3]),
    )


def _base_files(base: Path, merged: Path, name: str) -> Proof:
    """Configuration, tokenizer, chat template and generation settings are the base's, to the byte.

    Of the configuration only the dtype is the merge's own.
    """
    files = {path.name for folder in (base, merged) for path in companion_files(folder)}
    differing = []
    for file in sorted(files):
        if not (base / file).is_file() or not (merged / file).is_file():
            differing.append(f"{file} is only in {'the merge' if (merged / file).is_file() else name}")
        elif file == "config.json":
            ours, theirs = (json.loads((folder / file).read_text(encoding="utf-8")) for folder in (merged, base))
            keys = sorted(
                key
                for key in {*ours, *theirs} - {*_OF_THE_DTYPE}
                if (key in ours, ours.get(key)) != (key in theirs, theirs.get(key))
            )
            if keys:
                differing.append(f"config.json: {', '.join(keys)}")
        elif (merged / file).read_bytes() != (base / file).read_bytes():
            differing.append(file)
    return Proof.same(
        f"config and tokenizer are those of '{name}'", len(differing), len(files), of="files", note="; ".join(differing)
    )


@frozen
class _Distance:
    """How far a value is from the exact sum, in what one rounding admits, and where."""

    roundings: float
    key: str


def _weighted_sum(merged: Weights, members: Mapping[str, Weights], shares: Mapping[str, float]) -> Proof:
    """Every value is the float64 sum of the members, rounded once: no further off than half a unit in the last place.

    To that comes what a sum in float32 errs by before it is rounded.
    """
    worst = _Distance(0.0, "")
    outside = []
    for key in sorted(merged.keys):
        if any(key not in member.keys or member.shape(key) != merged.shape(key) for member in members.values()):
            outside.append(f"{key} is not in every model")
            continue
        distance = 0.0
        for first, stop in _slices(merged.shape(key)):
            exact: Any = 0.0
            reach: Any = 0.0
            for name, member in members.items():
                term = shares[name] * member.rows(key, first, stop).double()
                exact, reach = exact + term, reach + term.abs()
            distance = max(distance, _roundings(merged.rows(key, first, stop), exact, reach))
        if not distance <= worst.roundings:
            worst = _Distance(distance, key)
        if not distance <= 1:
            outside.append(f"{key} is {distance:.3g} roundings off")
    listed = " + ".join(f"{share:g} {name}" for name, share in shares.items())
    return Proof(
        claim=f"weights are {listed}",
        holds=not outside and bool(worst.key or merged.keys),
        measured=f"at most {worst.roundings:.3g} roundings off, in {len(merged.keys):,} tensors",
        bound="1 rounding",
        note="; ".join([f"{len(outside)} tensors are other sums", *outside[:2]]) if outside else "",
    )


def _roundings(tensor: torch.Tensor, exact: Any, reach: Any) -> float:
    """The largest distance of a value to the exact one, over what a correct one may have; infinite for NaN."""
    kind = torch.finfo(tensor.dtype)
    rounding = exact.abs().clamp(min=kind.smallest_normal) * kind.eps / 2
    distance = ((tensor.double() - exact).abs() / (rounding + SUM_ROUNDINGS * FLOAT32 * reach)).nan_to_num(nan=math.inf)
    return float(distance.max()) if distance.numel() else 0.0


def _slices(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Ranges of rows that have some million elements each."""
    rows = shape[0] if shape else 1
    step = max(1, _MOST_ELEMENTS // max(1, math.prod(shape[1:])))
    for first in range(0, rows, step):
        yield first, min(first + step, rows)
