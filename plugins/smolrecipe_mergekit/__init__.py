"""Merging checkpoints with mergekit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

from smolrecipe import Artifact, Proof, StageContext, StageKind, Workload, hookimpl, near_miss
from smolrecipe_mergekit.methods import METHODS, problems
from smolrecipe_mergekit.options import MergeOptions


def run(options: MergeOptions, context: StageContext) -> Artifact:
    """Merge the models, see ``smolrecipe_mergekit.merge``."""
    from smolrecipe_mergekit.merge import merge

    return merge(options, context)


def verify(options: MergeOptions, context: StageContext) -> Iterable[Proof]:
    """Compare the merged model with what it was made of, see ``smolrecipe_mergekit.proofs``."""
    from smolrecipe_mergekit.proofs import proofs

    return proofs(options, context)


def check(options: MergeOptions) -> Iterable[str]:
    """What is wrong with the method, its parameters and the weights, as far as options alone can tell."""
    if options.defined_in:
        return
    method = METHODS.get(options.method)
    if method is None:
        hint = near_miss(options.method, METHODS) or f"; known: {', '.join(METHODS)}"
        yield f"mergekit has no merge method '{options.method}'{hint} (a method of your own needs 'defined_in')"
        return
    yield from problems(method, options)


def missing(options: MergeOptions) -> Iterable[str]:
    """A module with a method of one's own that is not installed."""
    if options.defined_in and find_spec(options.defined_in.partition(".")[0]) is None:
        yield f"'defined_in' names the Python module '{options.defined_in}', which is not installed"


def fingerprint(options: MergeOptions) -> str:
    """The source of the package, or of the one module, with a method of one's own; nothing without one."""
    spec = find_spec(options.defined_in.partition(".")[0]) if options.defined_in else None
    if spec is None or spec.origin is None:
        return ""
    origin = Path(spec.origin)
    files = sorted(origin.parent.rglob("*.py")) if spec.submodule_search_locations else [origin]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(origin.parent).as_posix()} {_sha256(file)}\n".encode())
    return digest.hexdigest()


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def workload(options: MergeOptions, parents: Mapping[str, Workload]) -> Workload:
    """No training; a model like the base."""
    return Workload(model=parents[options.base.stage].model)


@hookimpl
def smolrecipe_stages() -> Iterable[StageKind]:
    """Offer ``merge``."""
    yield StageKind(
        name="merge",
        example={
            "base": "apo",
            "models": [{"from": "apo", "weight": 0.9}, {"from": "mid-training", "weight": 0.1}],
        },
        summary="merge checkpoints into one, by any method of mergekit",
        source="mergekit, arXiv:2403.13257",
        options=MergeOptions,
        check=check,
        missing=missing,
        fingerprint=fingerprint,
        requires=("mergekit", "torch", "transformers"),
        extra="mergekit",
        run=run,
        verify=verify,
        workload=workload,
        produces=lambda options: {"hf-model": True},
    )
