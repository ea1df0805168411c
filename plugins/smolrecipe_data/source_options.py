"""The options of the data sources."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from attrs import frozen

from smolrecipe import option

Shape = Literal["text", "chat", "preference", "problem"]

_COLUMNS_DOC = (
    "where a row's fields lie, field: column, for columns named otherwise than the fields: 'text' of text rows, "
    "'messages' and 'chat_template_kwargs' of chat rows, 'prompt', 'chosen', 'rejected' and 'chat_template_kwargs' of "
    "preference rows, 'messages', 'chat_template_kwargs' and 'answer' of problems"
)


def _license() -> Any:
    return option(
        default=None,
        identity=False,
        doc="the licence of the data, for the model card: an SPDX identifier, or the words of the data's own page; "
        "without it the card says that the recipe states none",
    )


@frozen(kw_only=True)
class HfDatasetOptions:
    """The options of the ``hf_dataset`` source."""

    id: str = option(doc="the dataset on the Hugging Face Hub ('HuggingFaceTB/smoltalk2'), or a local dataset folder")
    config: str | None = option(default=None, doc="the dataset's configuration ('SFT'), where it has several")
    split: str = option(default="train", doc="the split, in the slicing language of datasets: 'train', 'train[:1000]'")
    revision: str | None = option(
        default=None, doc="the commit, tag or branch; only a commit is sure to name the same rows tomorrow"
    )
    data_dir: str | None = option(default=None, doc="a folder inside the dataset ('data/python')")
    data_files: list[str] = option(
        factory=list, doc="the dataset's files to read, globs allowed; empty for its default"
    )
    streaming: bool = option(
        default=False, identity=False, doc="read rows over the network instead of downloading the split first"
    )
    fraction: float | None = option(
        default=None,
        more_than=0,
        at_most=1,
        doc="shuffle the split with 'seed' and keep its first int(fraction * rows) rows; without it all rows in order",
        source="alignment-handbook src/alignment/data.py: the 'weight' of a dataset in a mixture",
    )
    seed: int = option(default=0, at_least=0, doc="the seed of that shuffle", source="alignment-handbook: 0")
    rows: int | None = option(default=None, at_least=1, doc="read at most this many rows")
    yields: Shape = option(default="text", doc="the shape of the rows")
    columns: Mapping[str, str] = option(factory=dict, ordered=False, doc=_COLUMNS_DOC)
    license: str | None = _license()


@frozen(kw_only=True)
class FilesOptions:
    """The options of the ``files`` source."""

    paths: list[Path] = option(
        identity=False,
        doc="files or globs ('data/*.parquet'): .parquet, .jsonl, .jsonl.gz, or .txt and .md with a document each; "
        "read in the order given, a glob's matches by name. Their content is part of a stage's digest, their place not",
    )
    rows: int | None = option(default=None, at_least=1, doc="read at most this many rows")
    yields: Shape = option(default="text", doc="the shape of the rows")
    columns: Mapping[str, str] = option(factory=dict, ordered=False, doc=_COLUMNS_DOC)
    license: str | None = _license()


@frozen(kw_only=True)
class PythonDocsOptions:
    """The options of the ``python_docs`` source."""

    packages: list[str] = option(
        factory=lambda: ["attrs", "cattrs", "click", "numpy", "pluggy", "rich"],
        doc="installed distributions whose README and docstrings are read besides Python's own",
    )
    shortest: int = option(default=200, at_least=1, doc="leave out documents of fewer characters")
    rows: int | None = option(default=None, at_least=1, doc="read at most this many documents")
    license: str | None = _license()


@frozen(kw_only=True)
class PythonCodeOptions:
    """The options of the ``python_code`` source."""

    shortest: int = option(default=200, at_least=1, doc="leave out files of fewer characters")
    rows: int | None = option(default=None, at_least=1, doc="read at most this many files")
    license: str | None = _license()


Language = Literal["en", "fr", "es", "de", "it", "pt"]


@frozen(kw_only=True)
class ArithmeticOptions:
    """The options of the ``arithmetic`` source."""

    style: Literal["text", "think", "no_think", "preference", "problems"] = option(
        doc="text: sentences for pretraining. think: chats with worked steps inside <think>. no_think: chats with the "
        "bare answer. preference: the right answer preferred to a wrong one. problems: questions with their answer, "
        "for evaluation"
    )
    split: Literal["train", "held_out"] = option(
        doc="which sums: a sum belongs to the same split in every style, language and order of its operands"
    )
    mode: Literal["think", "no_think"] = option(
        default="think", doc="whether the answers of styles preference and problems are to show worked steps"
    )
    languages: list[Language] = option(
        factory=lambda: ["en", "fr", "es", "de", "it", "pt"],
        doc="the languages that numbers are spelled out in, by turns",
        source="the six languages of SmolLM3",
    )
    largest: int = option(default=20, at_least=1, at_most=200, doc="the largest operand; the smallest is 0")
    held_out: float = option(
        default=0.1,
        more_than=0,
        at_most=0.5,
        doc="the share of sums in split held_out. Keep it the same in all sources of a recipe: else sums that one "
        "source holds out are trained on by another",
    )
    rows: int | None = option(
        default=None, at_least=1, doc="how many rows; without it every sum once in every language (in text: about once)"
    )
    sums_per_document: int = option(default=8, at_least=1, doc="style text: sentences in a document")
    largest_error: int = option(
        default=3, at_least=1, doc="style preference: how far from the sum a wrong answer is at most"
    )
    turns: int = option(
        default=1, at_least=1, doc="styles think and no_think: questions in one chat, one after the other"
    )
    seed: int = option(default=0, at_least=0, doc="the seed of the order of the sums; it does not move the split")
