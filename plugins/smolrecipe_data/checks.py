"""What can be wrong with the data part of a recipe, as far as options alone can tell: light, before anything runs."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from smolrecipe import Problem, StageRef, Use, near_miss
from smolrecipe.options import walk
from smolrecipe_data.options import (
    MixtureOptions,
    PretrainedTokenizerOptions,
    TokenizeOptions,
    TrainTokenizerOptions,
)
from smolrecipe_data.rows import column_problems
from smolrecipe_data.shares import weight_problems
from smolrecipe_data.source_options import ArithmeticOptions, HfDatasetOptions, PythonDocsOptions
from smolrecipe_data.sums import pairs

if TYPE_CHECKING:
    from smolrecipe.planning.plan import Plan

_SOURCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]*")
_BYTES = 256


def check_hf_dataset(options: HfDatasetOptions) -> Iterable[str]:
    """What does not go together."""
    if options.streaming and options.fraction is not None:
        yield "'fraction' needs the number of rows, which streaming does not know: use 'rows', or 'streaming: false'"
    yield from column_problems(options.yields, options.columns)


def missing_packages(options: PythonDocsOptions) -> Iterable[str]:
    """Packages that are not installed."""
    for package in options.packages:
        if _version(package) is None:
            yield f"package '{package}' is not installed: install it or take it off 'packages'"


def python_fingerprint(options: Any) -> str:
    """The Python, and the packages, whose text is read."""
    versions = [f"{package} {_version(package)}" for package in getattr(options, "packages", ())]
    return "; ".join([f"{sys.implementation.name} {sys.version}", *versions])


def check_arithmetic(options: ArithmeticOptions) -> Iterable[str]:
    """A split without sums, or no language."""
    if not options.languages:
        yield "'languages' is empty: name at least one"
    if next(pairs(options.largest, options.split, options.held_out), None) is None:
        yield (
            f"no sum of 0..{options.largest} is in split '{options.split}' with held_out {options.held_out}: raise "
            "'largest' or 'held_out'"
        )


def arithmetic_fingerprint(options: ArithmeticOptions) -> str:
    """What spells the numbers."""
    return f"num2words {_version('num2words')}"


def check_train_tokenizer(options: TrainTokenizerOptions) -> Iterable[str]:
    """A size that leaves nothing to learn, roles without a token."""
    names = options.special_tokens
    if not options.data:
        yield "'data' is empty: name at least one source"
    if len(set(names)) < len(names):
        twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
        yield f"'special_tokens' names {', '.join(twice)} more than once"
    if options.vocab_size <= _BYTES + len(names):
        yield (
            f"'vocab_size' {options.vocab_size} leaves nothing to learn besides {_BYTES} bytes and {len(names)} "
            "special tokens"
        )
    for role, name in (("eos_token", options.eos_token), ("pad_token", options.pad_token)):
        if name not in names:
            yield f"'{role}' is {name}, which is not among 'special_tokens'{near_miss(name, names)}"


def check_pretrained_tokenizer(options: PretrainedTokenizerOptions) -> Iterable[str]:
    """Both or neither of ``id`` and ``file``; ids that are no numbers."""
    if (options.id is None) == (options.file is None):
        yield "give either 'id' (a model on the Hugging Face Hub) or 'file' (a local tokenizer.json)"
    if options.file is not None and options.revision is not None:
        yield "'revision' goes with 'id', not with 'file'"
    for token, name in options.token_names.items():
        if not token.isdecimal():
            yield f"'token_names' has the key '{token}', where token ids belong"
        if not name:
            yield f"'token_names' gives token {token} an empty name"


def missing_tokenizer_file(options: PretrainedTokenizerOptions) -> Iterable[str]:
    """The local file, where there is none."""
    if options.file is not None and not options.file.is_file():
        yield f"no file at {options.file}: 'file' names a tokenizer.json"


def check_tokenize(options: TokenizeOptions) -> Iterable[str]:
    """Sources that yield no text, names that cannot be folders."""
    if not options.sources:
        yield "'sources' is empty: name at least one"
    for name, use in options.sources.items():
        if not _SOURCE_NAME.fullmatch(name):
            yield (
                f"'{name}' cannot name a source: use letters, digits, '_', '+' and '-', and start with a letter or "
                "digit"
            )
        shape = use.component.yields(use.options)
        if shape != "text":
            yield f"source '{name}' yields {shape} rows; 'tokenize' takes text rows"
    if options.workers > options.files:
        yield f"{options.workers} workers find work for {options.files}: one makes one file at a time, so raise 'files'"


def check_mixture(options: MixtureOptions) -> Iterable[str]:
    """Weights that cannot be shares."""
    if not options.from_:
        yield "'from' is empty: name the stages whose token files are mixed"
    if len(set(options.from_)) < len(options.from_):
        yield "'from' names a stage twice"
    yield from weight_problems(options.weights)


def check_plan(plan: Plan) -> Iterator[Problem]:
    """What one stage must know of another: weights and sources, and sums that stay held out."""
    for stage in plan.stages:
        for path, value, _ in walk(stage.use, ("stages", stage.name)):
            if isinstance(value, Use) and isinstance(value.options, MixtureOptions):
                for message in _mixture_problems(value.options, plan):
                    yield Problem(f"packer 'mixture': {message}", plan.recipe.place(path))
    yield from _held_out_sums(plan)


def _mixture_problems(options: MixtureOptions, plan: Plan) -> Iterator[str]:
    sources: dict[str, StageRef] = {}
    for ref in options.from_:
        stage = plan.by_name[ref.stage].use.options
        if not isinstance(stage, TokenizeOptions):
            return  # another plugin's stage, whose sources only its artifact tells
        for name in stage.sources:
            if name in sources:
                yield f"source '{name}' is in stage '{sources[name]}' and in stage '{ref}': rename one"
            sources[name] = ref
    for name in options.weights:
        if name not in sources:
            hint = near_miss(name, sources) or f"; sources: {', '.join(sources)}"
            yield f"'weights' names '{name}', which is no source of {_listed(options.from_)}{hint}"
    unused = [name for name in sources if name not in options.weights]
    if unused and not options.allow_unused:
        yield f"no weight for {', '.join(unused)}: give one, or set 'allow_unused: true' to leave them out"


def _held_out_sums(plan: Plan) -> Iterator[Problem]:
    """The same share must be held out everywhere, or a sum held out here is trained on there."""
    first: Mapping[str, Any] = {}
    for stage in plan.stages:
        for path, value, _ in walk(stage.use, ("stages", stage.name)):
            if not (isinstance(value, Use) and isinstance(value.options, ArithmeticOptions)):
                continue
            here = {"share": value.options.held_out, "where": ".".join(map(str, path))}
            first = first or here
            if here["share"] != first["share"]:
                yield Problem(
                    f"source 'arithmetic': held_out is {here['share']} here and {first['share']} in {first['where']}, "
                    "so that sums held out in one are trained on in the other: make them the same",
                    plan.recipe.place(path),
                )


def _listed(refs: Iterable[StageRef]) -> str:
    return ", ".join(f"'{ref}'" for ref in refs)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
