"""Loading the model and saying to the engine, in its own words, what the options mean."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets  # noqa: TID253
import huggingface_hub.constants
import torch  # noqa: TID253
from torch.distributed.fsdp import MixedPrecisionPolicy  # noqa: TID253
from transformers import (  # noqa: TID253
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
)
from transformers.utils import logging as transformers_logging  # noqa: TID253

from smolrecipe import StageContext, StageError
from smolrecipe_trl import documentwise
from smolrecipe_trl.chat_templates import template_text
from smolrecipe_trl.options import TrainingOptions
from smolrecipe_trl.tokenising import check_tokenizer

_ATTENTION = {"sdpa": "sdpa", "flash": "flash_attention_2", "flex": "flex_attention"}


def silence_engines() -> None:
    """Once more what ``be_quiet`` does, for libraries that something else had imported before."""
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True
    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
    # TRL calls names of transformers that are on their way out, at every step.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def load_tokenizer(folder: Path, options: TrainingOptions) -> PreTrainedTokenizerBase:
    """The model's tokenizer with the recipe's chat template and end of turn.

    Raises:
        StageError: for a tokenizer that fits neither the template nor the model.
    """
    with _loading(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        vocabulary = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).vocab_size
    template = template_text(options.chat_template)
    check_tokenizer(tokenizer, template, options.eos_token)
    if len(tokenizer) > vocabulary:
        raise StageError(f"the tokenizer has {len(tokenizer)} tokens, the model only {vocabulary} ({folder})")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or options.eos_token
    tokenizer.eos_token = options.eos_token
    tokenizer.chat_template = template
    return tokenizer


def load_model(folder: Path, options: TrainingOptions, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The model in float32, which its weights are trained in whatever the precision of the computation."""
    with _loading(folder):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation=attention_kernel(options, config),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    for config in (model.config, model.generation_config):
        config.bos_token_id = tokenizer.bos_token_id
        config.eos_token_id = tokenizer.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id
    return model


@contextmanager
def _loading(folder: Path) -> Iterator[None]:
    """Say which folder it is that cannot be loaded: one that is not whole, or needs code of its own to be run."""
    try:
        yield
    except Exception as error:  # the tokenizers library raises nothing more special for a file that is none
        if isinstance(error, (MemoryError, RuntimeError)) and not isinstance(error, RecursionError):
            raise  # not enough memory, above all
        reason = str(error).strip().partition("\n")[0]
        raise StageError(f"{folder} cannot be loaded ({type(error).__name__}: {reason})") from error


def say_limits(model: PreTrainedModel, options: TrainingOptions, context: StageContext) -> None:
    """Say what will be slow, or longer than the model was made for."""
    kernel = model.config._attn_implementation
    if options.parallelism.device == "cuda" and options.attention == "auto" and kernel == "sdpa":
        context.say("flash-attn is not installed: packed rows get a dense mask of max_length x max_length on sdpa")
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and options.max_length > positions:
        context.say(f"max_length is {options.max_length}, beyond the {positions} positions that the model was made for")


def attention_kernel(options: TrainingOptions, config: PretrainedConfig) -> str:
    """The engine's name of the attention kernel for a model with this configuration."""
    if options.attention != "auto":
        return _ATTENTION[options.attention]
    if options.parallelism.device == "cpu":
        return documentwise.KERNEL if documentwise.can_attend(config) else _ATTENTION["sdpa"]
    return _ATTENTION["flash" if find_spec("flash_attn") is not None else "sdpa"]


def engine_arguments(
    options: TrainingOptions, folder: Path, *, processes: int, accumulation: int, steps: int
) -> dict[str, Any]:
    """Arguments of ``transformers.TrainingArguments`` that both trainers share."""
    on_cpu = options.parallelism.device == "cpu"
    sharded = options.parallelism.sharding == "fsdp2"
    return {
        "output_dir": str(folder),
        "max_steps": steps,
        "per_device_train_batch_size": options.micro_batch,
        "gradient_accumulation_steps": accumulation,
        "train_sampling_strategy": "sequential",  # the rows already lie in the order of their steps
        "max_grad_norm": options.max_grad_norm,
        "bf16": options.precision == "bfloat16",
        "use_cpu": on_cpu,
        "ddp_backend": ("gloo" if on_cpu else "nccl") if processes > 1 else None,
        "ddp_find_unused_parameters": False,
        "ddp_timeout": options.parallelism.timeout_seconds,
        "seed": options.seed,
        "data_seed": options.seed,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": not on_cpu,
        "remove_unused_columns": False,
        # FSDP recomputes by itself: the model's own way gathers every layer's parameters once more.
        "activation_checkpointing": options.activation_checkpointing and not sharded,
        "save_strategy": "steps",
        "save_steps": options.checkpoint_every,
        "save_total_limit": None,  # the oldest goes when the newest is sealed, and not before
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # it would log the mean of the losses before instead of a NaN
        "report_to": "none",
        "disable_tqdm": True,
        **(_fsdp2(options) if sharded else {}),
    }


def _fsdp2(options: TrainingOptions) -> dict[str, Any]:
    return {
        "fsdp": True,
        "fsdp_config": {
            "version": 2,
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",  # the model names its own layers
            "reshard_after_forward": True,
            "state_dict_type": "FULL_STATE_DICT",
            "activation_checkpointing": options.activation_checkpointing,
        },
    }


def keep_full_precision(arguments: TrainingArguments) -> None:
    """Under FSDP, reduce gradients in float32 and leave outputs as they are computed.

    accelerate's own policy for bfloat16 rounds both to it: gradients between processes, and log-probabilities before
    they are summed over a whole answer.
    """
    if arguments.fsdp_plugin_args is not None and arguments.bf16:
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        arguments.fsdp_plugin_args["mixed_precision_policy"] = policy
