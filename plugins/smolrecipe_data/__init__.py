"""Data: sources, tokenizers, token files by datatrove, and mixtures of sources addressed by sample number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smolrecipe import Artifact, Packer, Problem, Proof, Source, StageContext, StageKind, Workload, hookimpl
from smolrecipe_data import checks, local_files, origins
from smolrecipe_data.options import (
    MixtureOptions,
    PretrainedTokenizerOptions,
    TokenizeOptions,
    TrainTokenizerOptions,
)
from smolrecipe_data.source_options import (
    ArithmeticOptions,
    FilesOptions,
    HfDatasetOptions,
    PythonCodeOptions,
    PythonDocsOptions,
)
from smolrecipe_data.workload import mixture_questions, tokenize_workload

if TYPE_CHECKING:
    from smolrecipe.data import TokenRows
    from smolrecipe.planning.plan import Plan

Rows = Iterable[Mapping[str, Any]]

_SHAPES = {"text": "text", "think": "chat", "no_think": "chat", "preference": "preference", "problems": "problem"}


def _read_hf_dataset(options: HfDatasetOptions) -> Rows:
    from smolrecipe_data.hub import read

    return read(options)


def _read_files(options: FilesOptions) -> Rows:
    from smolrecipe_data.read_files import read

    return read(options)


def _read_python_docs(options: PythonDocsOptions) -> Rows:
    from smolrecipe_data.python_library import read_docs

    return read_docs(options)


def _read_python_code(options: PythonCodeOptions) -> Rows:
    from smolrecipe_data.python_library import read_code

    return read_code(options)


def _read_arithmetic(options: ArithmeticOptions) -> Rows:
    from smolrecipe_data.arithmetic import read

    return read(options)


def _train_tokenizer(options: TrainTokenizerOptions, context: StageContext) -> Artifact:
    from smolrecipe_data.train_tokenizer import train_tokenizer

    return train_tokenizer(options, context)


def _pretrained_tokenizer(options: PretrainedTokenizerOptions, context: StageContext) -> Artifact:
    from smolrecipe_data.pretrained_tokenizer import pretrained_tokenizer

    return pretrained_tokenizer(options, context)


def _tokenize(options: TokenizeOptions, context: StageContext) -> Artifact:
    from smolrecipe_data.tokenizing import tokenize

    return tokenize(options, context)


def _verify_trained(options: TrainTokenizerOptions, context: StageContext) -> Iterable[Proof]:
    from smolrecipe_data.verify_tokenizer import verify_trained

    return verify_trained(options, context)


def _verify_pretrained(options: PretrainedTokenizerOptions, context: StageContext) -> Iterable[Proof]:
    from smolrecipe_data.verify_tokenizer import verify_pretrained

    return verify_pretrained(options, context)


def _verify_tokens(options: TokenizeOptions, context: StageContext) -> Iterable[Proof]:
    from smolrecipe_data.verify_tokens import verify_tokens

    return verify_tokens(options, context)


def _open_mixture(
    options: MixtureOptions, context: StageContext, sequence_length: int, seed: int, start: Mapping[str, int] | None
) -> TokenRows:
    from smolrecipe_data.mixture import open_mixture

    return open_mixture(options, context, sequence_length, seed, start)


def _verify_mixture(
    options: MixtureOptions,
    context: StageContext,
    sequence_length: int,
    seed: int,
    start: Mapping[str, int] | None,
    samples: int,
) -> Iterable[Proof]:
    from smolrecipe_data.verify_mixture import verify_mixture

    return verify_mixture(options, context, sequence_length, seed, start, samples)


@hookimpl
def smolrecipe_sources() -> Iterable[Source]:
    """Offer ``hf_dataset``, ``files``, ``python_docs``, ``python_code`` and ``arithmetic``."""
    yield Source(
        name="hf_dataset",
        summary="a data set of the Hugging Face Hub",
        source="datasets.load_dataset; fractions as in alignment-handbook",
        options=HfDatasetOptions,
        check=checks.check_hf_dataset,
        requires=("datasets",),
        extra="data",
        read=_read_hf_dataset,
        yields=lambda options: options.yields,
        fingerprint=local_files.folder_fingerprint,
        origins=origins.of_hf_dataset,
        example={"id": "roneneldan/TinyStories"},
    )
    yield Source(
        name="files",
        summary="local Parquet, JSON lines or text files",
        options=FilesOptions,
        check=local_files.check,
        missing=local_files.missing,
        requires=("pyarrow",),
        extra="data",
        read=_read_files,
        yields=lambda options: options.yields,
        fingerprint=local_files.fingerprint,
        origins=origins.of_files,
        example={"paths": ["data/*.jsonl"]},
    )
    yield Source(
        name="python_docs",
        summary="prose about Python: its language reference, docstrings, READMEs of packages",
        options=PythonDocsOptions,
        missing=checks.missing_packages,
        read=_read_python_docs,
        yields=lambda options: "text",
        fingerprint=checks.python_fingerprint,
    )
    yield Source(
        name="python_code",
        summary="the source files of Python's library",
        options=PythonCodeOptions,
        read=_read_python_code,
        yields=lambda options: "text",
        fingerprint=checks.python_fingerprint,
    )
    yield Source(
        name="arithmetic",
        summary="sums spelled out in six languages, for every training stage and for evaluation",
        options=ArithmeticOptions,
        check=checks.check_arithmetic,
        requires=("num2words",),
        extra="data",
        read=_read_arithmetic,
        yields=lambda options: _SHAPES[options.style],
        fingerprint=checks.arithmetic_fingerprint,
        origins=origins.of_arithmetic,
        example={"style": "text", "split": "train"},
    )


@hookimpl
def smolrecipe_stages() -> Iterable[StageKind]:
    """Offer ``train_tokenizer``, ``pretrained_tokenizer`` and ``tokenize``."""
    yield StageKind(
        name="train_tokenizer",
        example={"data": {"prose": {"use": "python_docs"}}, "vocab_size": 2048},
        summary="learn a byte-level BPE tokenizer",
        source="Llama 3's pre-tokenisation, SmolLM3's special tokens",
        options=TrainTokenizerOptions,
        check=checks.check_train_tokenizer,
        requires=("tokenizers", "transformers"),
        extra="data",
        run=_train_tokenizer,
        verify=_verify_trained,
        produces=lambda options: {"tokenizer": True},
    )
    yield StageKind(
        name="pretrained_tokenizer",
        example={"id": "meta-llama/Llama-3.2-1B"},
        summary="take an existing tokenizer and name its reserved tokens",
        source="SmolLM3: Llama 3.2's tokenizer with renamed tokens and without bos",
        options=PretrainedTokenizerOptions,
        check=checks.check_pretrained_tokenizer,
        missing=checks.missing_tokenizer_file,
        requires=("tokenizers", "transformers"),
        extra="data",
        run=_pretrained_tokenizer,
        verify=_verify_pretrained,
        produces=lambda options: {"tokenizer": True},
    )
    yield StageKind(
        name="tokenize",
        example={"tokenizer": "tokenizer", "sources": {"prose": {"use": "python_docs"}}},
        summary="turn sources into token files",
        source="datatrove's DocumentTokenizer, as SmolLM3's data",
        options=TokenizeOptions,
        check=checks.check_tokenize,
        requires=("datatrove", "pyarrow", "tokenizers", "transformers"),
        extra="data",
        run=_tokenize,
        verify=_verify_tokens,
        workload=tokenize_workload,
        produces=lambda options: {"tokens": True},
    )


@hookimpl
def smolrecipe_packers() -> Iterable[Packer]:
    """Offer ``mixture``."""
    yield Packer(
        name="mixture",
        summary="sources mixed by weight, documents packed one behind the other",
        source="nanotron's blended data set over datatrove's token files, with exact shares and O(1) state",
        options=MixtureOptions,
        check=checks.check_mixture,
        requires=("numpy",),
        extra="data",
        open=_open_mixture,
        verify=_verify_mixture,
        example={"from": ["tokens"], "weights": {"web": 0.7, "code": 0.3}},
    )


@hookimpl
def smolrecipe_check_plan(plan: Plan) -> Iterable[Problem]:
    """Report weights that fit no source, and sums held out in one place but not in another."""
    return checks.check_plan(plan)


@hookimpl
def smolrecipe_warn_of_plan(
    plan: Plan, workloads: Mapping[str, Workload], published: Mapping[str, Path], most_epochs: float
) -> Iterable[Problem]:
    """Ask about weights that do not sum to one, sources that are read too often, rows longer than any document."""
    return mixture_questions(plan, workloads, published, most_epochs)
