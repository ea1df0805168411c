"""Writing a model folder that plain ``transformers`` loads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch  # noqa: TID253
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer  # noqa: TID253

from smolrecipe.durable import discard
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
        model.save_pretrained(partial, state_dict=_to_write(model, state, _DTYPES[options.save_precision]))
        _mend_config(partial / "config.json", options.save_precision)
        tokenizer.save_pretrained(partial)
        discard(folder)
        partial.rename(folder)
    accelerator.wait_for_everyone()


def _to_write(model: PreTrainedModel, state: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The tensors in ``dtype``, tied weights once: gathered from shards, they come as two equal tensors."""
    own_names = {name for name, _ in model.named_parameters()}
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - own_names
    return {name: tensor.to(dtype) for name, tensor in state.items() if name not in tied}


def _mend_config(path: Path, precision: str) -> None:
    """Say what was written: the engine notes the precision of training, and a cache turned off for it."""
    config = json.loads(path.read_text())
    config["use_cache"] = True
    config["dtype"] = precision
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
