"""What ``verify`` finds out about token files: against their own indexes, the tokenizer, and the text they are of.

Token files may be terabytes. All of them are read where they are small; of larger ones a stretch of documents of each
file, drawn at random but always alike. What was read is said in what was measured.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from itertools import islice
from typing import Any

import numpy as np
from attrs import define, field
from tokenizers import Tokenizer  # noqa: TID253

from smolrecipe import Proof, StageContext, StageError
from smolrecipe.lengths import end_of_bin
from smolrecipe.stage import TOKENIZER_FOLDER, TOKENS_FOLDER
from smolrecipe_data.options import TokenizeOptions
from smolrecipe_data.raw_files import Array, RawFile, raw_files
from smolrecipe_data.tokenizer_files import load_tokenizer
from smolrecipe_data.tokenizer_folder import TOKENIZER_FILE, eos_token
from smolrecipe_data.wording import listed

MOST_TOKENS = 2**27
"""How many tokens are read at most: half a gigabyte of files, a few seconds."""

_ROUND_TRIPS = 64
_ROWS_OF_A_SOURCE = 64
_SPLITS = ("train", "held_out")


@define
class _Findings:
    """What reading the files has found: how much was looked at, and the places where something is wrong."""

    controls: Array
    """Of each token whether it is a control token, and of one beyond the vocabulary, which is the last."""
    documents: int = 0
    tokens: int = 0
    not_ascending: list[str] = field(factory=list)
    not_in_vocabulary: list[str] = field(factory=list)
    without_end: list[str] = field(factory=list)
    control_inside: list[str] = field(factory=list)
    hashes: dict[str, dict[bytes, str]] = field(factory=lambda: {split: {} for split in _SPLITS})
    lengths: dict[str, list[Array]] = field(factory=dict)
    """Of each source, the lengths of the documents that are trained on, a file at a time."""
    some: list[tuple[str, Array]] = field(factory=list)
    """A few documents with their places, without the token that ends them."""


def verify_tokens(options: TokenizeOptions, context: StageContext) -> Iterator[Proof]:
    """Proofs about the token files of a ``tokenize`` stage."""
    tokenizer_folder = context.input(options.tokenizer, TOKENIZER_FOLDER)
    tokenizer = load_tokenizer(tokenizer_folder / TOKENIZER_FILE)
    tokenizer.encode_special_tokens = True  # names of control tokens in documents are text
    end_name = options.end_of_document or eos_token(tokenizer_folder)
    end = tokenizer.token_to_id(end_name)
    if end is None:
        yield Proof(claim="the end of a document is a token", holds=False, note=f"{end_name} is no token")
        return
    vocabulary = tokenizer.get_vocab_size()
    tokens = context.folder / TOKENS_FOLDER
    files = {
        (name, split): raw_files(tokens / name / split, vocabulary) for name in options.sources for split in _SPLITS
    }
    every = [file for group in files.values() for file in group]
    broken = [f"{file.name} has {file.length:,} tokens" for file in every if not file.is_whole()]
    yield Proof.same("files are as long as their indexes say", len(broken), len(every), of="files", note=listed(broken))
    yield _totals(options, context, files)

    whole = [file for file in every if file.is_whole()]
    found = _Findings(controls=_control_tokens(tokenizer, vocabulary))
    total = sum(file.length for file in whole)
    kept = max(1, 4 * _ROUND_TRIPS // max(1, len(whole)))
    for file in whole:
        _read(file, found, vocabulary, end, MOST_TOKENS / total if total > MOST_TOKENS else 1.0, kept)
    everything = found.documents == sum(file.documents for file in whole)
    of = "documents" if everything else f"documents (there are {sum(file.documents for file in whole):,})"
    for claim, places in (
        ("document ends increase", found.not_ascending),
        ("all tokens are in the vocabulary", found.not_in_vocabulary),
        ("every document ends with its end token", found.without_end),
        ("no control token is inside a document", found.control_inside),
    ):
        yield Proof.same(claim, len(places), found.documents, of=of, note=listed(places))
    if options.held_out:
        shared = found.hashes["train"].keys() & found.hashes["held_out"].keys()
        held_out, trained = (found.hashes[split] for split in ("held_out", "train"))
        yield Proof(
            claim="no held-out document is trained on",
            holds=not shared and bool(held_out) and bool(trained),
            measured=f"{len(shared):,} of {len(held_out):,} are among {len(trained):,} trained on"
            + ("" if everything else " (of those read)"),
            bound="0",
            note=listed([f"{held_out[key]} is {trained[key]}" for key in shared]),
        )
    yield _round_trips(found, tokenizer)
    if everything:
        yield _lengths(context.record()["summary"]["sources"], found)
        yield from _text_is_there(options, found, tokenizer, end)


def _totals(options: TokenizeOptions, context: StageContext, files: dict[tuple[str, str], list[RawFile]]) -> Proof:
    """The counts that the stage published, source by source, are those of the files."""
    summary = context.record()["summary"]
    wrong = []
    counts = 0
    sums: dict[str, int] = {}
    for name in options.sources:
        of_source = json.loads((context.folder / TOKENS_FOLDER / name / "source.json").read_text())
        for split, prefix in (("train", ""), ("held_out", "held_out_")):
            for what, counted in (
                ("documents", sum(file.documents for file in files[name, split])),
                ("tokens", sum(file.length for file in files[name, split])),
            ):
                key = f"{prefix}{what}"
                sums[key] = sums.get(key, 0) + counted
                counts += 1
                told = (of_source[key], summary["sources"][name][key])
                if told != (counted, counted):
                    wrong.append(f"'{name}' {key}: {counted:,} in the files, {told[0]:,} and {told[1]:,} told")
    for key, counted in sums.items():
        counts += 1
        if summary[key] != counted:
            wrong.append(f"{key}: {counted:,} in the files, {summary[key]:,} in the summary")
    return Proof.same("the summary counts what the files hold", len(wrong), counts, of="counts", note=listed(wrong))


def _read(file: RawFile, found: _Findings, vocabulary: int, end: int, part: float, kept: int) -> None:
    """Look at a stretch of the file's documents, all of them where ``part`` is 1, and keep ``kept`` of them."""
    documents = max(1, int(part * file.documents))
    random_numbers = random.Random(file.name)
    first = random_numbers.randrange(file.documents - documents + 1)
    before = int(file.ends(first - 1, first)[0]) if first else 0
    ends = file.ends(first, first + documents)
    found.documents += documents
    starts = np.concatenate(([before], ends[:-1]))
    for index in np.flatnonzero(ends <= starts).tolist():
        found.not_ascending.append(f"{file.name}, document {first + index}")
    if (ends <= starts).any():
        return  # its documents cannot be told apart
    tokens = file.tokens(before, int(ends[-1]))
    found.tokens += len(tokens)
    if file.path.parent.name == "train":
        found.lengths.setdefault(file.path.parents[1].name, []).append(ends - starts)
    for place in np.flatnonzero(tokens >= vocabulary).tolist():
        found.not_in_vocabulary.append(f"{file.name}, token {before + place} is {int(tokens[place])}")
    for index in np.flatnonzero(tokens[ends - before - 1] != end).tolist():
        found.without_end.append(f"{file.name}, document {first + index}")
    inside = found.controls[np.minimum(tokens, vocabulary)]
    inside[ends - before - 1] = False
    for place in np.flatnonzero(inside).tolist():
        found.control_inside.append(f"{file.name}, token {before + place} is {int(tokens[place])}")
    chosen = set(random_numbers.sample(range(documents), min(documents, kept)))
    hashes = found.hashes[file.path.parent.name]
    for index, (start, stop) in enumerate(zip((starts - before).tolist(), (ends - before).tolist(), strict=True)):
        place = f"{file.name}, document {first + index}"
        hashes.setdefault(_hash(tokens[start:stop]), place)
        if index in chosen:
            found.some.append((place, tokens[start : stop - 1].copy()))


def _lengths(told: Mapping[str, Any], found: _Findings) -> Proof:
    """Each bin of the lengths that the stage published, counted in the indexes; every document is in one."""
    wrong, counts = [], 0
    for name, files in found.lengths.items():
        lengths = np.concatenate(files)
        of_source = {int(shortest): int(count) for shortest, count in told[name].get("lengths", {}).items()}
        counts += len(of_source) + 1
        for shortest, count in of_source.items():
            there = int(((lengths >= shortest) & (lengths < end_of_bin(shortest))).sum())
            if there != count:
                wrong.append(f"'{name}' has {there:,} documents of {shortest} tokens or a bit more, {count:,} told")
        if sum(of_source.values()) != len(lengths):
            wrong.append(f"'{name}' has {len(lengths):,} documents, {sum(of_source.values()):,} in all bins")
    return Proof.same("lengths are those of the documents", len(wrong), counts, of="counts", note=listed(wrong))


def _control_tokens(tokenizer: Tokenizer, vocabulary: int) -> Array:
    controls = np.zeros(vocabulary + 1, bool)
    controls[[token for token, added in tokenizer.get_added_tokens_decoder().items() if added.special]] = True
    return controls


def _round_trips(found: _Findings, tokenizer: Tokenizer) -> Proof:
    """Text that comes of a document tokenises to the document again."""
    chosen = random.Random(0).sample(found.some, min(len(found.some), _ROUND_TRIPS))
    differing = []
    for place, document in chosen:
        tokens = document.tolist()
        text = tokenizer.decode(tokens, skip_special_tokens=False)
        if tokenizer.encode(text, add_special_tokens=False).ids != tokens:
            differing.append(f"{place}: {text[:40]!r}")
    return Proof.same(
        "documents survive decoding and encoding", len(differing), len(chosen), of="documents", note=listed(differing)
    )


def _text_is_there(options: TokenizeOptions, found: _Findings, tokenizer: Tokenizer, end: int) -> Iterator[Proof]:
    """The first texts of each source, tokenised here and now, are documents of the files.

    A source that is not on this machine any more is left out, and named; with none there is no claim.
    """
    known = found.hashes["train"].keys() | found.hashes["held_out"].keys()
    missing, unread, compared = [], [], 0
    for name, use in options.sources.items():
        if list(use.component.missing(use.options)):
            unread.append(name)
            continue
        try:
            rows = list(islice(use.component.read(use.options), _ROWS_OF_A_SOURCE))
        except (StageError, OSError):
            unread.append(name)
            continue
        for number, row in enumerate(rows):
            text = str(row["text"]).encode(errors="replace").decode()
            if text:
                compared += 1
                ids = [*tokenizer.encode(text, add_special_tokens=False).ids, end]
                if _hash(np.array(ids, np.int64)) not in known:
                    missing.append(f"row {number} of '{name}': {text[:40]!r}")
    if compared:
        left_out = f" (not read: {', '.join(unread)})" if unread else ""
        yield Proof.same(
            "the sources' text is in the files", len(missing), compared, of=f"texts{left_out}", note=listed(missing)
        )


def _hash(tokens: Array) -> bytes:
    return blake2b(np.ascontiguousarray(tokens, np.int64).tobytes(), digest_size=8).digest()
