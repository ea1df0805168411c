"""Counting from the documents' ends alone, so that a trillion tokens are not read to be counted.

Token files lie in ``tokens/<source>/<split>/*.ds``, each with a ``*.ds.index``: as 8-byte little-endian integers, the
number of the first token behind each document.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from smolrecipe import Artifact, StageContext, StageError
from smolrecipe.stage import TOKENS_FOLDER
from smolrecipe_count_tokens import CountTokensOptions

COUNTS_FILE = "counts.json"
"""In the artifact: source -> split -> counts."""

DOCUMENTS_AT_A_TIME = 2**20


def count(options: CountTokensOptions, context: StageContext) -> Artifact:
    """Write ``counts.json``; the summary has the totals of each source.

    Raises:
        StageError: when there are no token files.
    """
    tokens = context.input(options.from_, TOKENS_FOLDER)
    folders = split_folders(tokens)
    if not folders:
        raise StageError(f"stage '{options.from_}' has no token files (*.ds) in {tokens}: there is nothing to count")
    counts: dict[str, dict[str, Any]] = {}
    for done, (source, split, folder) in enumerate(folders, start=1):
        counts.setdefault(source, {})[split] = found = count_split(folder)
        context.say(
            f"{source}, {split}: {found['tokens']:,} tokens in {found['documents']:,} documents, "
            f"the longest {found['longest']:,}"
        )
        context.progress(done, len(folders))
    (context.folder / COUNTS_FILE).write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")
    totals = {
        source: {key: sum(split[key] for split in splits.values()) for key in ("tokens", "documents")}
        for source, splits in counts.items()
    }
    return Artifact(summary={"tokens": sum(total["tokens"] for total in totals.values()), "sources": totals})


def split_folders(tokens: Path) -> list[tuple[str, str, Path]]:
    """Every (source, split, folder) with token files, by name."""
    folders = sorted({file.parent for file in tokens.glob("*/*/*.ds")})
    return [(folder.parent.name, folder.name, folder) for folder in folders]


def count_split(folder: Path) -> dict[str, Any]:
    """Counts of one folder of token files, ``histogram``: the power of two that lengths are below -> documents."""
    histogram: Counter[int] = Counter()
    longest = tokens = documents = 0
    for lengths in document_lengths(folder):
        longest = max(longest, int(lengths.max()))
        tokens += int(lengths.sum())
        documents += len(lengths)
        # The exponent of a float is the power of two that it is below; exact for lengths below 2 ** 53.
        exponents, counts = np.unique(np.frexp(lengths.astype(np.float64))[1], return_counts=True)
        histogram.update(dict(zip(exponents.tolist(), counts.tolist(), strict=True)))
    return {
        "tokens": tokens,
        "documents": documents,
        "longest": longest,
        "mean": round(tokens / documents, 2) if documents else 0.0,
        "histogram": {f"< {2**exponent}": histogram[exponent] for exponent in sorted(histogram)},
    }


def document_lengths(folder: Path) -> Iterator[np.ndarray]:
    """The lengths of all documents in a folder's files, some at a time.

    Raises:
        StageError: for a file whose ends do not rise.
    """
    for file in sorted(folder.glob("*.ds")):
        last = 0
        ends = np.memmap(file.with_name(f"{file.name}.index"), dtype="<i8", mode="r")
        for start in range(0, len(ends), DOCUMENTS_AT_A_TIME):
            part = np.asarray(ends[start : start + DOCUMENTS_AT_A_TIME])
            lengths = np.diff(part, prepend=last)
            if (lengths <= 0).any():
                raise StageError(f"{file.name}.index in {folder} is damaged: its document ends do not rise")
            last = int(part[-1])
            yield lengths
