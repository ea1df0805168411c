"""A model and its tokenizer, loaded from a folder that others may have made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch  # noqa: TID253
from transformers import (  # noqa: TID253
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from smolrecipe import StageError, untrusted
from smolrecipe.checkpoint import CONFIG_FILE, LONGEST_SECONDS, check_checkpoint, misfits
from smolrecipe.strict_json import read_mapping
from smolrecipe_lm_eval.options import EvaluateOptions


def load(folder: Path, dtype: str | torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model, without the sampling settings that it is shipped with, and its tokenizer.

    Raises:
        StageError: when a file is damaged or would have more done than loading, or the weights do not fit.
    """
    found, _ = misfits(folder, check_checkpoint(folder), _build)
    if found:
        raise StageError(f"the weights in {folder} are not those of its config.json: it {'; it '.join(found)}")
    what = f"the tokenizer in {folder} (tokenizer.json, tokenizer_config.json) does not load"
    with untrusted(what, seconds=LONGEST_SECONDS):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        tokenizer.decode(tokenizer("Hello")["input_ids"])  # some of its settings are read only when it is used
    with untrusted(f"transformers does not load the model in {folder}"):
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
        shipped = model.generation_config
        model.generation_config = GenerationConfig(eos_token_id=shipped.eos_token_id, pad_token_id=shipped.pad_token_id)
        ready: PreTrainedModel = model.eval()
    return ready, tokenizer


def require_positions(name: str, folder: Path, options: EvaluateOptions) -> None:
    """Refuse a model, before any is evaluated, that has not the positions for a context of RULER.

    Raises:
        StageError: naming the length, or the ``config.json`` that does not tell positions.
    """
    if options.ruler is None:
        return
    try:
        config = read_mapping(folder / CONFIG_FILE, most_bytes=2**24)
    except ValueError as error:
        raise StageError(str(error)) from None
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int):
        raise StageError(f"{folder / CONFIG_FILE} does not tell max_position_embeddings, which RULER's contexts need")
    for length in options.ruler.lengths:
        if length > positions:
            raise StageError(
                f"'ruler.lengths' has contexts of {length} tokens, and the model of '{name}' takes {positions}: take "
                "shorter ones, or extend the model (an export with yarn)"
            )


def _build(folder: Path) -> Any:
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
