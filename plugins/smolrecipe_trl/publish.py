"""Writing a model folder that plain ``transformers`` loads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch  # noqa: TID253
from transformers import PreTrainedTokenizerBase, Trainer  # noqa: TID253

from smolrecipe_trl.options import TrainingOptions

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def publish_model(trainer: Trainer, tokenizer: PreTrainedTokenizerBase, options: TrainingOptions, folder: Path) -> None:
    """Write model, tokenizer with chat template and generation settings to ``folder``, whole or not at all.

    Called on every process; one of them writes.
    """
    accelerator = trainer.accelerator
    state = accelerator.get_state_dict(trainer.model_wrapped)  # gathers the shards where there are any
    if accelerator.is_main_process:
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        model = accelerator.unwrap_model(trainer.model_wrapped, keep_torch_compile=False)
        model.generation_config.use_cache = True
        model.save_pretrained(partial, state_dict=_in_precision(state, _DTYPES[options.save_precision]))
        _mend_config(partial / "config.json", options.save_precision)
        tokenizer.save_pretrained(partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    accelerator.wait_for_everyone()


def _in_precision(state: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The tensors in ``dtype``; what was one tensor under two names (tied weights) stays one."""
    converted: dict[int, torch.Tensor] = {}
    for tensor in state.values():
        if tensor.data_ptr() not in converted:
            converted[tensor.data_ptr()] = tensor.to(dtype)
    return {name: converted[tensor.data_ptr()] for name, tensor in state.items()}


def _mend_config(path: Path, precision: str) -> None:
    """Say what was written: the engine notes the precision of training, and a cache turned off for it."""
    config = json.loads(path.read_text())
    config["use_cache"] = True
    config["dtype"] = precision
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
