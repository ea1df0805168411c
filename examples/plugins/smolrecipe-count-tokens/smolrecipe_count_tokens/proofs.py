"""What was counted, counted again from the token files themselves instead of from the documents' ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from smolrecipe import Proof, StageContext
from smolrecipe.stage import TOKENS_FOLDER
from smolrecipe_count_tokens import CountTokensOptions
from smolrecipe_count_tokens.counting import COUNTS_FILE, split_folders


def proofs(options: CountTokensOptions, context: StageContext) -> Iterator[Proof]:
    """Yield what is found of the published counts."""
    counts = json.loads((context.folder / COUNTS_FILE).read_text(encoding="utf-8"))
    folders = split_folders(context.input(options.from_, TOKENS_FOLDER))
    counted = {(source, split): numbers for source, splits in counts.items() for split, numbers in splits.items()}
    there = {(source, split) for source, split, _ in folders}
    missing = [f"{source}, {split}" for source, split in sorted(there ^ counted.keys())]
    yield Proof.same(
        "every source and split is counted", len(missing), len(there), of="splits", note="; ".join(missing)
    )

    wrong = []
    for source, split, folder in folders:
        stored, said = tokens_stored(folder), counted.get((source, split), {}).get("tokens", 0)
        if stored != said:
            wrong.append(f"{source}, {split}: {said:,} counted, and the files hold {stored:,}")
    yield Proof.same(
        "tokens are as many as the files hold", len(wrong), len(folders), of="splits", note="; ".join(wrong)
    )

    uneven = [
        f"{source}, {split}"
        for (source, split), numbers in counted.items()
        if sum(numbers["histogram"].values()) != numbers["documents"]
    ]
    yield Proof.same(
        "histograms hold every document", len(uneven), len(counted), of="histograms", note="; ".join(uneven)
    )


def tokens_stored(folder: Path) -> int:
    """By the files' sizes; how wide a token is stands behind the last ``|`` of the first line of ``*.ds.metadata``."""
    total = 0
    for file in folder.glob("*.ds"):
        first = file.with_name(f"{file.name}.metadata").read_text(encoding="utf-8").partition("\n")[0]
        total += file.stat().st_size // int(first.rpartition("|")[2])
    return total
