"""A model and its tokenizer, ready to be asked, loaded from a folder that others may have made.

For stages that ask a model and do not train it. Engines are imported when it is called.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from smolrecipe.checkpoint import LONGEST_SECONDS, check_checkpoint, misfits
from smolrecipe.errors import StageError
from smolrecipe.untrusted import untrusted

if TYPE_CHECKING:
    from torch import dtype as Dtype
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_ready_model(folder: Path, dtype: str | Dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model, without the sampling settings that it is shipped with, and its tokenizer.

    Args:
        folder: a Hugging Face checkpoint's.
        dtype: of the weights, by torch or its name; ``"auto"`` for that of the checkpoint.

    Raises:
        StageError: when a file is damaged or would have more done than loading, or the weights do not fit.
    """
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    generation_config: Any = transformers.GenerationConfig
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
        model.generation_config = generation_config(
            eos_token_id=shipped.eos_token_id, pad_token_id=shipped.pad_token_id
        )
        ready: PreTrainedModel = model.eval()
    return ready, tokenizer


def _build(folder: Path) -> Any:
    import torch
    import transformers

    make: Any = transformers.AutoModelForCausalLM
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        return make.from_config(config, trust_remote_code=False)
