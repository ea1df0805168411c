"""Documents that tokenising has held out, as texts: what no stage that read those token files was trained on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy
from transformers import AutoTokenizer  # noqa: TID253

from smolrecipe import StageContext, StageError, untrusted
from smolrecipe.checkpoint import LONGEST_SECONDS, check_tokenizer_files
from smolrecipe.stage import MODEL_FOLDER, TOKENIZER_FOLDER, TOKENS_FOLDER
from smolrecipe_lm_eval.options import HeldOutOptions


def held_out_texts(options: HeldOutOptions, limit: int | None, context: StageContext) -> dict[str, list[str]]:
    """The first ``limit`` held-out documents of each source, as ``held-out <source>``.

    Raises:
        StageError: when a source is not there or held nothing out, or the tokenizer is not that of the tokens.
    """
    folder = context.input(options.tokens, TOKENS_FOLDER)
    about = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
    home = context.inputs[options.tokenizer.stage]
    place = home / TOKENIZER_FOLDER if (home / TOKENIZER_FOLDER).is_dir() else home / MODEL_FOLDER
    check_tokenizer_files(place)
    with untrusted(f"the tokenizer in {place} does not load", seconds=LONGEST_SECONDS):
        tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=False)
    end = about["end_of_document_id"]
    if tokenizer.convert_ids_to_tokens(end) != about["end_of_document"] or len(tokenizer) != about["vocab_size"]:
        raise StageError(
            f"'held_out.tokenizer': the tokenizer of '{options.tokenizer}' is not the one that stage "
            f"'{options.tokens}' used"
        )
    there = sorted(path.parent.name for path in folder.glob("*/held_out"))
    for name in options.sources:
        if name not in there:
            raise StageError(f"'held_out.sources': '{options.tokens}' has no '{name}', but {', '.join(there)}")
    found: dict[str, list[str]] = {}
    for name in options.sources or there:
        texts: list[str] = []
        for tokens in _documents(folder / name / "held_out"):
            if len(texts) == limit:
                break
            if text := str(tokenizer.decode(tokens[:-1] if tokens[-1] == end else tokens)):
                texts.append(text)
        if not texts:
            raise StageError(f"'held_out': '{options.tokens}' held no document of '{name}' out")
        found[f"held-out {name}"] = texts
    return found


def _documents(folder: Path) -> Iterator[list[int]]:
    """The tokens of each document, file by file: see ``smolrecipe.stage.TOKENS_FOLDER``."""
    for path in sorted(folder.glob("*.ds")):
        width = int(path.with_name(f"{path.name}.metadata").read_text("utf-8").partition("\n")[0].rpartition("|")[2])
        tokens = numpy.memmap(path, dtype=f"<u{width}", mode="r")
        start = 0
        for end in numpy.fromfile(path.with_name(f"{path.name}.index"), dtype="<i8").tolist():
            yield tokens[start:end].tolist()
            start = end
