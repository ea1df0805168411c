"""Making an artifact of a model's files: checked, then linked or copied."""

from __future__ import annotations

import math
import shutil

from smolrecipe import Artifact, StageContext, StageError
from smolrecipe.stage import MODEL_FOLDER, TOKENIZER_FOLDER
from smolrecipe_pretrained import PretrainedModelOptions
from smolrecipe_pretrained.download import download
from smolrecipe_pretrained.fit import Tensor, held_tensors, misfits, wanted_tensors

TAKEN = (".safetensors", ".json", ".jinja", ".txt", ".model")
TOKENIZER_FILES = ("tokenizer", "special_tokens_map", "added_tokens", "chat_template", "vocab", "merges")
"""How the names of a tokenizer's files start."""


def bring_in(options: PretrainedModelOptions, context: StageContext) -> Artifact:
    """Write ``model/`` and, where there is a tokenizer, ``tokenizer/``.

    Raises:
        StageError: when the files are not those of the model that its configuration describes, by the tensors' names.
    """
    if options.folder is not None:
        source, commit, origin = options.folder, None, str(options.folder)
    else:
        source, commit = download(str(options.id), options.revision)
        origin = str(options.id)
    held = held_tensors(source)
    wanted, tied = wanted_tensors(source)
    if wrong := misfits(held, wanted, tied):
        raise StageError(f"the model {origin} cannot be used: it {'; it '.join(wrong)}")
    model, tokenizer = context.folder / MODEL_FOLDER, context.folder / TOKENIZER_FOLDER
    for folder in (model, tokenizer):  # from an interrupted run
        shutil.rmtree(folder, ignore_errors=True)
    model.mkdir()
    for file in sorted(source.iterdir()):
        if file.is_file() and file.name.endswith(TAKEN):
            shutil.copyfile(file, model / file.name)
    if (model / "tokenizer.json").is_file():
        tokenizer.mkdir()
        for file in sorted(model.iterdir()):
            if file.name.startswith(TOKENIZER_FILES):
                shutil.copyfile(file, tokenizer / file.name)
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


def _count(held: dict[str, Tensor], tied: dict[str, str]) -> int:
    return sum(math.prod(tensor.shape) for name, tensor in held.items() if name not in tied)
