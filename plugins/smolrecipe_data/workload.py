"""What data stages hand on, and what to ask about mixtures before a training is paid for: light, no engine."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smolrecipe import Problem, Use, Workload
from smolrecipe.options import walk
from smolrecipe.stage import TOKENS_FOLDER
from smolrecipe_data.options import MixtureOptions, TokenizeOptions
from smolrecipe_data.shares import shares_of

if TYPE_CHECKING:
    from smolrecipe.planning.plan import Plan, PlannedStage

_NEAR_ONE = 1e-3
"""Weights that sum to one within this are taken to be meant so: published ones are rounded to five digits."""
_INDEX_BYTES = 2**24
"""Read of a source's index at most: two million documents. What is not found in them is not said to be missing."""
_LARGEST_FILE = 2**16


def tokenize_workload(options: TokenizeOptions, parents: Mapping[str, Workload]) -> Workload:
    """No training, but what is trained on later."""
    return Workload(trains_on={f"sources.{name}": use for name, use in options.sources.items()})


def mixture_questions(
    plan: Plan, workloads: Mapping[str, Workload], published: Mapping[str, Path], most_epochs: float
) -> Iterator[Problem]:
    """Weights that do not sum to one; where tokens are published, sources read too often and rows too long."""
    read: dict[str, dict[tuple[str, str], float]] = {}
    """Of each stage: how many tokens of each source (stage, name) it and the stages it is made from have read."""
    for stage in plan.stages:
        own: dict[tuple[str, str], float] = {}
        for parent in stage.parents:
            for source, tokens in read[parent].items():
                own[source] = max(own.get(source, 0.0), tokens)
        read[stage.name] = own
        for path, mixture in _mixtures(stage):
            place = plan.recipe.place((*path, "weights"))
            for message in (
                *_sum(mixture),
                *_passes(mixture, workloads[stage.name], published, most_epochs, own),
                *_rows(mixture, workloads[stage.name], published),
            ):
                yield Problem(f"stage '{stage.name}': {message}", place)


def _mixtures(stage: PlannedStage) -> Iterator[tuple[tuple[str | int, ...], MixtureOptions]]:
    for path, value, _ in walk(stage.use, ("stages", stage.name)):
        if isinstance(value, Use) and isinstance(value.options, MixtureOptions):
            yield path, value.options


def _sum(mixture: MixtureOptions) -> Iterator[str]:
    total = math.fsum(mixture.weights.values())
    if abs(total - 1) > _NEAR_ONE:
        yield f"the weights of its mixture sum to {total:.5g}, not to 1: each is divided by that"


def _passes(
    mixture: MixtureOptions,
    workload: Workload,
    published: Mapping[str, Path],
    most_epochs: float,
    read: dict[tuple[str, str], float],
) -> Iterator[str]:
    """Sources that this stage takes over the limit; what it reads is added to ``read``."""
    if workload.steps is None or workload.tokens_per_step is None:
        return
    trained = workload.steps * workload.tokens_per_step
    for name, share in shares_of(mixture.weights).items():
        found = _source(mixture, name, published)
        if found is None:
            continue
        stage, folder = found
        tokens = _tokens(folder)
        before = read.get((stage, name), 0.0)
        read[stage, name] = after = before + float(share) * trained
        if tokens and after / tokens > most_epochs and float(share) * trained > 0:
            so_far = f", {before / tokens:.3g} times of it in the stages before" if before else ""
            yield (
                f"source '{name}' has {tokens:,} tokens and is read {after / tokens:.3g} times{so_far}: more than "
                f"{most_epochs:g} times, repeated data teaches less and less"
            )


def _rows(mixture: MixtureOptions, workload: Workload, published: Mapping[str, Path]) -> Iterator[str]:
    """Rows that are longer than any document of any source."""
    if workload.row_length is None:
        return
    longest = 0
    for name in mixture.weights:
        found = _source(mixture, name, published)
        length = _longest_document(found[1], workload.row_length) if found is not None else None
        if length is None or length >= workload.row_length:
            return
        longest = max(longest, length)
    yield (
        f"rows of {workload.row_length:,} tokens, and no source has a document of more than {longest:,}: every row is "
        "several documents, and nothing in it reaches further than that"
    )


def _source(mixture: MixtureOptions, name: str, published: Mapping[str, Path]) -> tuple[str, Path] | None:
    """The stage and the folder of a source's training tokens; nothing while any of the token stages is unpublished."""
    for ref in mixture.from_:
        if ref.stage not in published:
            return None
        folder = published[ref.stage] / TOKENS_FOLDER / name
        if folder.is_dir():
            return ref.stage, folder
    return None


def _tokens(folder: Path) -> int | None:
    """Training tokens of a source, as counted when it was made; nothing where its counts cannot be read."""
    try:
        with (folder / "source.json").open("rb") as file:
            about: Any = json.loads(file.read(_LARGEST_FILE))
    except (OSError, ValueError, RecursionError):
        return None
    tokens = about.get("tokens") if isinstance(about, dict) else None
    return tokens if type(tokens) is int and tokens > 0 else None


def _longest_document(folder: Path, enough: int) -> int | None:
    """Tokens of a source's longest training document, or of the first that has ``enough``; nothing if too many.

    An index holds the ends of a file's documents as little-endian 64-bit token counts.
    """
    longest, budget = 0, _INDEX_BYTES
    try:
        for index in sorted((folder / "train").glob("*.ds.index")):
            size = index.stat().st_size
            if size > budget:
                return None
            budget -= size
            ends = array("Q", index.read_bytes()[: size - size % 8])
            start = 0
            for end in ends:
                longest = max(longest, end - start)
                start = end
                if longest >= enough:
                    return longest
    except OSError:
        return None
    return longest or None
