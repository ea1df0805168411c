"""Token files that the kit writes for packers: in them every token occurs once, so that each tells where it was."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from attrs import frozen

from smolrecipe.stage import TOKENS_FOLDER

SOURCES: Mapping[str, tuple[int, int]] = {"web": (60, 24), "code": (30, 24)}
"""Name -> documents to train on, documents held out."""

LONGEST_DOCUMENT = 40
FILES = 2
"""How many files each split of a source is written in."""


@frozen
class Token:
    """Where a token lies: its place in its document counts from 0."""

    source: str
    held_out: bool
    document: int
    place: int


@frozen(kw_only=True)
class KnownTokens:
    """What has been written: every token by its id."""

    places: Mapping[int, Token]
    vocab_size: int

    def trained(self, source: str) -> int:
        """How many tokens of a source may be trained on."""
        return sum(token.source == source and not token.held_out for token in self.places.values())


def write_tokens(artifacts: Mapping[str, Path], first: int = 10) -> KnownTokens:
    """Write the ``tokens`` folder of each stage's artifact; ids count up from ``first``, over all of them.

    The first stage has the sources of ``SOURCES``, another one the same with its own name before theirs. Tokens take
    two bytes where all ids fit into them, else four.
    """
    places: dict[int, Token] = {}
    written: list[tuple[Path, list[list[int]]]] = []
    for number, (stage, artifact) in enumerate(artifacts.items()):
        for name, counts in SOURCES.items():
            source = name if number == 0 else f"{stage}_{name}"
            for held_out, documents in zip((False, True), counts, strict=True):
                folder = artifact / TOKENS_FOLDER / source / ("held_out" if held_out else "train")
                lengths = random.Random(f"{source} {held_out}")
                found: list[list[int]] = []
                for document in range(documents):
                    ids = [first + len(places) + place for place in range(lengths.randint(1, LONGEST_DOCUMENT))]
                    places.update({token: Token(source, held_out, document, place) for place, token in enumerate(ids)})
                    found.append(ids)
                written.append((folder, found))
    vocab_size = first + len(places) + 1
    for folder, found in written:
        _write_split(folder, found, 2 if vocab_size <= 2**16 else 4)
    for artifact in artifacts.values():
        _write_facts(artifact / TOKENS_FOLDER, vocab_size)
    return KnownTokens(places=places, vocab_size=vocab_size)


def _write_split(folder: Path, documents: list[list[int]], token_bytes: int) -> None:
    folder.mkdir(parents=True)
    half = -(-len(documents) // FILES)
    for number in range(FILES):
        part = documents[number * half : (number + 1) * half]
        tokens = [token for document in part for token in document]
        path = folder / f"{number:05d}_00000_shuffled.ds"
        np.array(tokens, f"<u{token_bytes}").tofile(path)
        np.cumsum([len(document) for document in part]).astype("<u8").tofile(path.with_name(path.name + ".index"))
        metadata = f"conformance|{token_bytes}\n{len(tokens)}\n{len(tokens)} T"
        path.with_name(path.name + ".metadata").write_text(metadata)


def _write_facts(tokens: Path, vocab_size: int) -> None:
    about = {
        "sha256": hashlib.sha256(b"conformance").hexdigest(),
        "vocab_size": vocab_size,
        "end_of_document": "<|end_of_text|>",
        "end_of_document_id": vocab_size - 1,
    }
    (tokens / "tokens.json").write_text(json.dumps(about))
    for source in [path for path in tokens.iterdir() if path.is_dir()]:
        train, held_out = (
            sum(len(np.fromfile(index, "<u8")) for index in (source / split).glob("*.index"))
            for split in ("train", "held_out")
        )
        (source / "source.json").write_text(json.dumps({"documents": train, "held_out_documents": held_out}))
