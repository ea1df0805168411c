"""Making an artifact of a model's files: checked, then copied."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer, GenerationConfig  # noqa: TID253

from smolrecipe import Artifact, StageContext, StageError, untrusted
from smolrecipe.checkpoint import (
    CONFIG_FILE,
    GENERATION_FILE,
    INDEX_FILE,
    LONGEST_SECONDS,
    StoredTensor,
    check_checkpoint,
    check_tokenizer_files,
    companion_files,
    weight_files,
)
from smolrecipe.stage import MODEL_FOLDER, TOKENIZER_FOLDER
from smolrecipe_pretrained import PretrainedModelOptions
from smolrecipe_pretrained.download import download
from smolrecipe_pretrained.fit import unlike

TOKENIZER_FILES = ("tokenizer", "special_tokens_map", "added_tokens", "chat_template", "vocab", "merges")
"""How the names of a tokenizer's files start."""


def bring_in(options: PretrainedModelOptions, context: StageContext) -> Artifact:
    """Write ``model/`` and, where there is a tokenizer, ``tokenizer/``.

    Raises:
        StageError: when the files are not those of the model that its configuration describes, by the tensors' names,
            when a tokenizer does not load, or when a file is not what a model's may be.
    """
    if options.folder is not None:
        source, commit, origin = options.folder, None, str(options.folder)
    else:
        source, commit = download(str(options.id), options.revision)
        origin = str(options.id)
    _check_links(source)
    held = check_checkpoint(source)
    wrong, tied = unlike(source, held)
    if wrong:
        raise StageError(f"the model {origin} cannot be used: it {'; it '.join(wrong)}")
    _check_generation(source)
    model, tokenizer = context.folder / MODEL_FOLDER, context.folder / TOKENIZER_FOLDER
    for folder in (model, tokenizer):  # from an interrupted run
        shutil.rmtree(folder, ignore_errors=True)
    model.mkdir()
    index = [source / INDEX_FILE] if (source / INDEX_FILE).exists() else []
    taken = [*weight_files(source), *index, *companion_files(source)]
    for file in taken:
        shutil.copyfile(file, model / file.name)
    if (model / "tokenizer.json").is_file():
        tokenizer.mkdir()
        for file in sorted(model.iterdir()):
            if file.name.startswith(TOKENIZER_FILES):
                shutil.copyfile(file, tokenizer / file.name)
        _check_tokenizer(source, tokenizer)
    if left := sorted({file.name for file in source.iterdir()} - {file.name for file in taken}):
        context.say(f"not taken, as no part of the model: {', '.join(left)}")
    return Artifact(
        summary={
            "origin": origin,
            "commit": commit,
            "tensors": len(held),
            "parameters": _count(held, tied),
            "dtypes": sorted({tensor.dtype for tensor in held.values()}),
            "tokenizer": tokenizer.is_dir(),
        }
    )


def _check_links(source: Path) -> None:
    """Refuse links out of the folder, which would bring in files that are not the model's.

    The Hub's cache is made of links: from ``<model>/snapshots/<commit>`` into ``<model>/blobs``.
    """
    real = source.resolve()
    allowed = [real, *([real.parents[1] / "blobs"] if real.parent.name == "snapshots" else [])]
    for file in sorted(source.iterdir()):
        if file.is_symlink() and not file.exists():
            raise StageError(f"{file} is a link to nothing: fetch what it led to again")
        if file.is_symlink() and not any(folder in file.resolve().parents for folder in allowed):
            raise StageError(f"{file} is a link that leads out of the folder: put the file itself there")


def _check_generation(source: Path) -> None:
    """Read the generation settings, where there are any, as every later stage will."""
    if (source / GENERATION_FILE).exists():
        with untrusted(f"transformers does not take {source / GENERATION_FILE}", seconds=LONGEST_SECONDS):
            GenerationConfig.from_pretrained(source, local_files_only=True)


def _check_tokenizer(source: Path, tokenizer: Path) -> None:
    """Load the tokenizer as every later stage will."""
    check_tokenizer_files(tokenizer)
    what = f"the tokenizer in {source} (tokenizer.json, tokenizer_config.json) does not load"
    with untrusted(what, seconds=LONGEST_SECONDS):
        loaded = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True, trust_remote_code=False)
        loaded("Hello")
        vocabulary = loaded.get_vocab()
        known = AutoConfig.from_pretrained(source, local_files_only=True, trust_remote_code=False).vocab_size
    if beyond := sorted(word for word, number in vocabulary.items() if not 0 <= number < known):
        raise StageError(
            f"{source}: the model of {CONFIG_FILE} knows {known:,} tokens, and tokenizer.json has {len(beyond)} with "
            f"higher numbers, {ascii(beyond[0])[:100]} among them"
        )


def _count(held: Mapping[str, StoredTensor], tied: Mapping[str, str]) -> int:
    return sum(math.prod(tensor.shape) for name, tensor in held.items() if name not in tied)
