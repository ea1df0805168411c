"""The ``tokenize`` stage: sources to token files, by datatrove.

Layout of the artifact: ``tokens/<source>/<train|held_out>/*.ds`` with ``.ds.index`` (document ends) and
``.ds.metadata``, ``tokens/<source>/source.json`` (counts) and ``tokens/tokenizer.json`` (what the tokens stand for).
A source with its ``source.json`` is finished, so that an interrupted stage goes on with the next one.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datatrove.executor.local import LocalPipelineExecutor  # noqa: TID253
from datatrove.pipeline.readers.parquet import ParquetReader  # noqa: TID253
from datatrove.pipeline.tokens.tokenizer import DocumentTokenizer  # noqa: TID253

from smolrecipe import Artifact, Source, StageContext, StageError, Use
from smolrecipe.stage import TOKENIZER_FOLDER, TOKENS_FOLDER
from smolrecipe_data.documents import SPLITS, DocumentCounts, collect
from smolrecipe_data.options import TokenizeOptions
from smolrecipe_data.token_files import ABOUT_FILE, SOURCE_FILE, TokenStream
from smolrecipe_data.tokenizer_folder import TokenizerFacts, facts

_SCRATCH_FOLDER = "tokenizing"
_DOCUMENTS_AT_A_TIME = 1000
_SECONDS_BETWEEN_NEWS = 10.0


def tokenize(options: TokenizeOptions, context: StageContext) -> Artifact:
    """Tokenise every source that an earlier attempt has not finished.

    Raises:
        StageError: for a source that is empty or leaves one of its splits empty.
    """
    tokenizer = facts(context.input(options.tokenizer, TOKENIZER_FOLDER), options.end_of_document)
    tokens = context.folder / TOKENS_FOLDER
    scratch = context.folder / _SCRATCH_FOLDER
    sources: dict[str, dict[str, int]] = {}
    for number, (name, use) in enumerate(options.sources.items(), start=1):
        finished = tokens / name / SOURCE_FILE
        if finished.exists():
            context.say(f"source '{name}' was tokenised before the interruption")
        else:
            counts = _tokenize_source(name, use, options, tokenizer, context)
            _write_json(finished, counts)
            shutil.rmtree(scratch / name, ignore_errors=True)
        sources[name] = json.loads(finished.read_text())
        context.progress(number, len(options.sources), **_totals(sources))
    shutil.rmtree(scratch, ignore_errors=True)
    about = {
        "sha256": tokenizer.sha256,
        "vocab_size": tokenizer.vocab_size,
        "end_of_document": tokenizer.end_of_document,
        "end_of_document_id": tokenizer.end_of_document_id,
    }
    _write_json(tokens / ABOUT_FILE, about)
    return Artifact(summary={**_totals(sources), "vocab_size": tokenizer.vocab_size, "sources": sources})


def _tokenize_source(
    name: str, use: Use[Source], options: TokenizeOptions, tokenizer: TokenizerFacts, context: StageContext
) -> dict[str, int]:
    scratch = context.folder / _SCRATCH_FOLDER / name
    documents = collect(
        use.component.read(use.options),
        scratch / "documents",
        where=f"source '{name}'",
        held_out=options.held_out,
        files=options.files,
        seed=options.seed,
        on_documents=_news(lambda counts: context.say(f"{name}: {counts.train + counts.held_out:,} documents read")),
    )
    _require_documents(name, documents, options.held_out)
    result = {
        "documents": documents.train,
        "held_out_documents": documents.held_out,
        "characters": documents.characters,
        "empty_documents": documents.empty,
        "repaired_documents": documents.repaired,
    }
    for split in SPLITS:
        if getattr(documents, split) == 0:
            continue
        target = context.folder / TOKENS_FOLDER / name / split
        _run_datatrove(scratch / "documents" / split, target, scratch / f"log-{split}", options, tokenizer)
        _name_tokenizer(target, str(options.tokenizer))
        stream = TokenStream(target)
        if stream.documents != getattr(documents, split):
            raise StageError(
                f"source '{name}': {getattr(documents, split)} documents went in and {stream.documents} came out; "
                f"the files in {target} do not hold what they should. Delete the stage's folder and run it again"
            )
        result["tokens" if split == "train" else "held_out_tokens"] = stream.tokens
    return {"tokens": 0, "held_out_tokens": 0, **result}


def _run_datatrove(
    documents: Path, target: Path, logs: Path, options: TokenizeOptions, tokenizer: TokenizerFacts
) -> None:
    """Tokenise a folder of Parquet files, a task each. Tasks that an earlier attempt finished are not run again."""
    tasks = len(list(documents.glob("*.parquet")))
    workers = min(options.workers, tasks)
    with _tokenizer_threads(workers == 1):
        LocalPipelineExecutor(
            pipeline=[
                ParquetReader(str(documents), glob_pattern="*.parquet", batch_size=_DOCUMENTS_AT_A_TIME),
                DocumentTokenizer(
                    str(target),
                    str(tokenizer.file),
                    eos_token=tokenizer.end_of_document,
                    batch_size=_DOCUMENTS_AT_A_TIME,
                    seed=options.seed,
                    shuffle_documents=True,
                ),
            ],
            tasks=tasks,
            workers=workers,
            logging_dir=str(logs),
        ).run()


@contextmanager
def _tokenizer_threads(wanted: bool) -> Iterator[None]:
    """Let one worker tokenise with all cores, several with one each."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if wanted else "false"
    try:
        yield
    finally:
        os.environ.pop("TOKENIZERS_PARALLELISM")
        if before is not None:
            os.environ["TOKENIZERS_PARALLELISM"] = before


def _name_tokenizer(folder: Path, name: str) -> None:
    """Put the tokenizer stage's name in place of the path that datatrove notes down, which says nothing elsewhere."""
    for path in folder.glob("*.metadata"):
        first, *rest = path.read_text().split("\n")
        path.write_text("\n".join([f"{name}|{first.rpartition('|')[2]}", *rest]))


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


def _news(tell: Callable[[DocumentCounts], None]) -> Callable[[DocumentCounts], None]:
    """``tell``, but only every few seconds."""
    last = time.monotonic()

    def maybe(counts: DocumentCounts) -> None:
        nonlocal last
        if time.monotonic() - last > _SECONDS_BETWEEN_NEWS:
            last = time.monotonic()
            tell(counts)

    return maybe


def _totals(sources: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    keys = ("documents", "held_out_documents", "tokens", "held_out_tokens")
    return {key: sum(counts[key] for counts in sources.values()) for key in keys}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text(json.dumps(content, indent=2) + "\n")
    unfinished.rename(path)
