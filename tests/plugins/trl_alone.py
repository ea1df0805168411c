"""TRL by itself, as somebody would call it who has no recipe: what the stages are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from trl_toys import preferences

from smolrecipe_trl import PreferenceOptions


def trained_by_trl(
    loss_type: str, options: PreferenceOptions, base: Path, folder: Path
) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    """The same ten steps by TRL alone: it renders, tokenises, pads and computes its loss; its log and its weights."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import DPOConfig, DPOTrainer

    from smolrecipe_trl.engine import load_tokenizer
    from smolrecipe_trl.sample_order import row_order

    model = AutoModelForCausalLM.from_pretrained(base / "model", dtype=torch.float32, attn_implementation="sdpa")
    decayed = [parameter for name, parameter in model.named_parameters() if "embed_tokens" not in name]
    spared = [parameter for name, parameter in model.named_parameters() if "embed_tokens" in name]
    optimizer = torch.optim.AdamW(
        [{"params": spared, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 0.1}], lr=1e-3, betas=(0.9, 0.95)
    )
    arguments = DPOConfig(
        output_dir=str(folder),
        loss_type=loss_type,
        beta=options.loss.options.beta,
        max_steps=10,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        train_sampling_strategy="sequential",
        bf16=False,
        use_cpu=True,
        activation_checkpointing=False,
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        seed=options.seed,
    )
    theirs = DPOTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(list(preferences(0, 24))).select(row_order(24, 40, options.seed)),
        processing_class=load_tokenizer(base / "model", options),
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 10)),
    )
    theirs.train()
    history = [entry for entry in theirs.state.log_history if "loss" in entry]
    return history, {name: parameter.detach() for name, parameter in model.named_parameters()}
