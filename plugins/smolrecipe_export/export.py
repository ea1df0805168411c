"""Writing the exported folder: configuration, tokenizer, generation settings and weights."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch  # noqa: TID253
from safetensors.torch import load_file, save_file

from smolrecipe import Artifact, HfConfig, StageContext, StageError, untrusted
from smolrecipe.checkpoint import CONFIG_FILE, INDEX_FILE, check_checkpoint, companion_files, weight_files
from smolrecipe.stage import MODEL_FOLDER
from smolrecipe_export import ExportOptions, GenerationOptions
from smolrecipe_export.reload import load_tokenizer, reload

_LONGEST = 2**40
"""Tokens: longer than anything, short enough to compute with."""


def export(options: ExportOptions, context: StageContext) -> Artifact:
    """Write ``model/``, load it with plain transformers and generate; only then is the stage done.

    Raises:
        StageError: when the model is damaged, or, as written, does not load, has another RoPE than asked for, or is
            not finite.
    """
    source = context.input(options.from_)
    check_checkpoint(source)
    target = context.folder / MODEL_FOLDER
    if target.exists():  # from an interrupted run
        shutil.rmtree(target)
    target.mkdir(parents=True)
    for file in companion_files(source):
        shutil.copyfile(file, target / file.name)

    before = _read(source / CONFIG_FILE)
    config = _configuration(source / CONFIG_FILE, before, options)
    tokenizer = _tokenizer_configuration(target, config, options)
    _generation_settings(target, config, tokenizer, options.generation, context)
    dtype = _weights(source, target, options.dtype, config)
    _write(target / CONFIG_FILE, config)
    if before.get("use_cache") is False:
        context.say("use_cache was off, as training leaves it: the exported model caches while it generates")

    try:
        facts = reload(target, config)
    except StageError as error:
        raise StageError(f"the model of '{options.from_}' ({source}) cannot be exported: {error}") from None
    changed = sorted(key for key in before.keys() | config.keys() if before.get(key) != config.get(key))
    context.say(
        f"loaded with transformers; attention scaling {facts['attention_scaling']}, generated {facts['sample']!r}"
    )
    return Artifact(
        summary={
            "from": str(options.from_),
            "components": list(options.components),
            "changed": {key: config.get(key) for key in changed},
            "dtype": dtype,
            **facts,
        }
    )


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise StageError(f"the model to export has no {file.name} ({file.parent})")
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))  # checked before, by check_checkpoint
    return content


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _configuration(file: Path, before: HfConfig, options: ExportOptions) -> HfConfig:
    config: HfConfig = json.loads(json.dumps(before))
    for name, use in options.components.items():
        if use.component.to_hf is None:
            raise StageError(f"model component '{name}' ({use.name}) has no counterpart in transformers")
        with untrusted(f"model component '{name}' ({use.name}) cannot be added to {file}"):
            use.component.to_hf(config, use.options)
    config["use_cache"] = True
    length = config.get("max_position_embeddings")
    if not isinstance(length, int) or not 0 < length < _LONGEST:
        raise StageError(f"{file}: max_position_embeddings is {length!r}, which is no number of tokens")
    return config


def _tokenizer_configuration(target: Path, config: HfConfig, options: ExportOptions) -> dict[str, Any]:
    """Raise the tokenizer's length to the model's, and give it its chat template; return its configuration."""
    content = _read(target / "tokenizer_config.json")
    content["model_max_length"] = config["max_position_embeddings"]
    if options.chat_template is not None:
        content.pop("chat_template", None)  # the older place, which would win
        with untrusted(f"'chat_template': {options.chat_template} cannot be read"):
            template = options.chat_template.read_text(encoding="utf-8")
        (target / "chat_template.jinja").write_text(template, encoding="utf-8")
    _write(target / "tokenizer_config.json", content)
    return content


def _generation_settings(
    target: Path, config: HfConfig, tokenizer: dict[str, Any], asked: GenerationOptions, context: StageContext
) -> None:
    """Write ``generation_config.json``, whose end-of-sequence is one that the tokenizer knows as such.

    Training stages may leave the pretraining end in the configuration; a chat model would then never stop.
    """
    file = target / "generation_config.json"
    settings = _read(file) if file.is_file() else {}
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if settings.get(key) is None and config.get(key) is not None:
            settings[key] = config[key]
    ids = _special_ids(target, tokenizer)
    ends = settings.get("eos_token_id")
    if ids["eos_token_id"] not in (ends if isinstance(ends, list) else [ends]):
        context.say(f"end-of-sequence {ends} is not the tokenizer's: written as {ids['eos_token_id']}")
        settings["eos_token_id"] = ids["eos_token_id"]
    if settings.get("pad_token_id") is None and ids["pad_token_id"] is not None:
        settings["pad_token_id"] = ids["pad_token_id"]
    for key in ("eos_token_id", "pad_token_id"):
        config[key] = settings.get(key)
    settings["use_cache"] = True  # what stands here wins over config.json
    settings.update(asked.sampling)
    if asked.repetition_penalty is not None:
        settings["repetition_penalty"] = asked.repetition_penalty
    if asked.do_sample is not None:
        settings["do_sample"] = asked.do_sample
    elif asked.sampling:
        settings["do_sample"] = True
    _write(file, settings)


def _special_ids(target: Path, tokenizer: dict[str, Any]) -> dict[str, int | None]:
    loaded = load_tokenizer(target)
    if loaded.eos_token_id is None:
        raise StageError(
            f"the tokenizer names no eos_token (it says {tokenizer.get('eos_token')!r}): nothing could end"
        )
    return {"eos_token_id": loaded.eos_token_id, "pad_token_id": loaded.pad_token_id}


def _weights(source: Path, target: Path, dtype: str, config: HfConfig) -> str:
    """Link the weight files, or write them anew where the dtype changes. Returns the dtype."""
    present = str(config.pop("torch_dtype", None) or config.get("dtype") or "float32")
    wanted = present if dtype == "keep" else dtype
    config["dtype"] = wanted
    total = 0
    for file in weight_files(source):
        if wanted == present:
            _link(file, target / file.name)
            continue
        with untrusted(f"{file} cannot be read"):
            tensors = load_file(file)
        cast = {
            key: tensor.to(getattr(torch, wanted)) if tensor.is_floating_point() else tensor
            for key, tensor in tensors.items()
        }
        total += sum(tensor.nbytes for tensor in cast.values())
        save_file(cast, target / file.name, metadata={"format": "pt"})
    if (source / INDEX_FILE).is_file():
        content = _read(source / INDEX_FILE)
        if wanted != present:
            content["metadata"] = {"total_size": total}
        _write(target / INDEX_FILE, content)
    return wanted


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)  # the file itself, where it is a link
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
