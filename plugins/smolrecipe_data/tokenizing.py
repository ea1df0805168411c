"""The ``tokenize`` stage: sources to token files, by datatrove.

Layout of the artifact: ``tokens/<source>/<train|held_out>/*.ds`` with ``.ds.index`` (document ends) and
``.ds.metadata``, ``tokens/<source>/source.json`` (counts, and what its files are) and ``tokens/tokens.json`` (which
tokenizer they are of). A source with its ``source.json`` is finished, so that an interrupted stage goes on with the
next one, provided that its files are still what they were.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from smolrecipe import Artifact, Source, StageContext, StageError, Use
from smolrecipe.lengths import in_bins
from smolrecipe.stage import TOKENIZER_FOLDER, TOKENS_FOLDER
from smolrecipe_data.documents import SPLITS, DocumentCounts, collect
from smolrecipe_data.options import TokenizeOptions
from smolrecipe_data.seals import Files, damage, read_sealed, write_sealed
from smolrecipe_data.token_files import ABOUT_FILE, SOURCE_FILE, TokenStream
from smolrecipe_data.token_writer import TokenWriter
from smolrecipe_data.tokenizer_folder import TokenizerFacts, facts

_SCRATCH_FOLDER = "tokenizing"
_SECONDS_BETWEEN_NEWS = 10.0


def tokenize(options: TokenizeOptions, context: StageContext) -> Artifact:
    """Tokenise every source that an earlier attempt has not finished.

    Raises:
        StageError: for a source that is empty or leaves one of its splits empty.
    """
    tokenizer = facts(context.input(options.tokenizer, TOKENIZER_FOLDER), options.end_of_document)
    tokens = context.folder / TOKENS_FOLDER
    sources: dict[str, dict[str, Any]] = {}
    for number, (name, use) in enumerate(options.sources.items(), start=1):
        counts = _finished(name, context)
        if counts is None:
            counts, files = _tokenize_source(name, use, options, tokenizer, context)
            write_sealed(tokens / name / SOURCE_FILE, {**counts, "files": files})
        _delete(context.folder / _SCRATCH_FOLDER / name)
        sources[name] = counts
        context.progress(number, len(options.sources), **_totals(sources))
        context.saved(number)
    _delete(context.folder / _SCRATCH_FOLDER)
    for path in tokens.iterdir():
        if path.name not in sources:
            path.unlink()
    about = {
        "sha256": tokenizer.sha256,
        "vocab_size": tokenizer.vocab_size,
        "end_of_document": tokenizer.end_of_document,
        "end_of_document_id": tokenizer.end_of_document_id,
    }
    _write_json(tokens / ABOUT_FILE, about)
    return Artifact(summary={**_totals(sources), "vocab_size": tokenizer.vocab_size, "sources": sources})


def _finished(name: str, context: StageContext) -> dict[str, Any] | None:
    """The counts of a source that an earlier attempt has finished, whole as it still is; ``None`` for any other.

    What is there of a finished one that is damaged is deleted.
    """
    folder = context.folder / TOKENS_FOLDER / name
    if not (folder / SOURCE_FILE).exists():
        return None
    sealed = read_sealed(folder / SOURCE_FILE)
    if sealed is None:
        wrong = f"{SOURCE_FILE} is not what was written"
    else:
        files = sealed.pop("files")
        strange = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
        strange -= {*files, SOURCE_FILE}
        wrong = damage(folder, files) or (f"{min(strange)} is none of its files" if strange else "")
        if not wrong:
            context.say(f"source '{name}' was tokenised before the interruption")
            return sealed
    context.say(f"source '{name}' was tokenised before the interruption, but {wrong}: it is tokenised again")
    _delete(folder)
    return None


def _tokenize_source(
    name: str, use: Use[Source], options: TokenizeOptions, tokenizer: TokenizerFacts, context: StageContext
) -> tuple[dict[str, Any], Files]:
    """Counts and files of a source, which are then there."""
    scratch = context.folder / _SCRATCH_FOLDER / name
    documents = collect(
        use.component.read(use.options),
        scratch,
        where=f"source '{name}'",
        held_out=options.held_out,
        files=options.files,
        seed=options.seed,
        control_tokens=tokenizer.control_tokens,
        on_documents=_now_and_then(
            lambda counts: context.say(f"{name}: {counts.train + counts.held_out:,} documents read")
        ),
    )
    _require_documents(name, documents, options.held_out)
    result: dict[str, Any] = {
        "documents": documents.train,
        "held_out_documents": documents.held_out,
        "characters": documents.characters,
        "empty_documents": documents.empty,
        "repaired_documents": documents.repaired,
        "escaped_documents": documents.escaped,
    }
    files = {}
    for split in SPLITS:
        if getattr(documents, split) == 0:
            continue
        target = context.folder / TOKENS_FOLDER / name / split
        writer = TokenWriter(
            documents=scratch / split,
            target=target,
            tokenizer_file=tokenizer.file,
            tokenizer_name=str(options.tokenizer),
            end_of_document=tokenizer.end_of_document,
            seed=options.seed,
        )
        made = writer.write_all(
            options.workers,
            on_file=_now_and_then(lambda done, all_: context.say(f"{name}: {done} of {all_} files tokenised")),
        )
        files |= {f"{split}/{file}": described for file, described in made.items()}
        stream = TokenStream(target)
        if stream.documents != getattr(documents, split):
            raise StageError(
                f"source '{name}': {getattr(documents, split)} documents went in and {stream.documents} came out; "
                f"the files in {target} do not hold what they should. Delete {context.folder} and run again"
            )
        result["tokens" if split == "train" else "held_out_tokens"] = stream.tokens
        if split == "train":
            result["lengths"] = in_bins(stream.lengths())
    return {"tokens": 0, "held_out_tokens": 0, **result}, files


def _require_documents(name: str, documents: DocumentCounts, held_out: float) -> None:
    total = documents.train + documents.held_out
    if total == 0:
        raise StageError(f"source '{name}' is an empty dataset: {documents.empty} rows, none with text")
    if held_out and not documents.held_out:
        raise StageError(
            f"source '{name}': none of its {total} documents falls into the held-out part of {held_out}: raise "
            "'held_out', or add documents"
        )
    if not documents.train:
        raise StageError(f"source '{name}': all of its {total} documents fall into the held-out part: add documents")


def _now_and_then(tell: Callable[..., None]) -> Callable[..., None]:
    """``tell``, but only every few seconds."""
    last = time.monotonic()

    def maybe(*news: Any) -> None:
        nonlocal last
        if time.monotonic() - last > _SECONDS_BETWEEN_NEWS:
            last = time.monotonic()
            tell(*news)

    return maybe


def _totals(sources: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    keys = ("documents", "held_out_documents", "tokens", "held_out_tokens")
    return {key: sum(counts[key] for counts in sources.values()) for key in keys}


def _delete(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    unfinished.rename(path)
