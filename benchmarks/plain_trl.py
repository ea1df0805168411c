"""Plain TRL: ``SFTTrainer`` or ``DPOTrainer`` on rows of text, as a script of a user's.

    python benchmarks/plain_trl.py work.json

``work.json`` says which, on what and how many steps to make; ``post_training.py`` writes it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from turns import Gate


class Gated(TrainerCallback):
    """Waits for the next turn when a step is logged."""

    def __init__(self) -> None:
        self.gate = Gate()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Wait."""
        if logs and "loss" in logs:
            self.gate.step_done()


def main() -> None:
    """Train."""
    work = json.loads(Path(sys.argv[1]).read_text())
    tokenizer = AutoTokenizer.from_pretrained(work["model"])
    tokenizer.chat_template = Path(work["chat_template"]).read_text()
    tokenizer.eos_token = "<|im_end|>"
    model = AutoModelForCausalLM.from_pretrained(work["model"], dtype=torch.float32)
    common = {
        "output_dir": work["folder"],
        "max_steps": work["steps"],
        "per_device_train_batch_size": work["batch"],
        "max_length": work["length"],
        "learning_rate": 1e-4,
        "lr_scheduler_type": "linear",
        "bf16": False,
        "use_cpu": True,
        "activation_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    trainer: Any
    rows = load_dataset("json", data_files=work["rows"], split="train")
    if work["kind"] == "sft":
        trainer = SFTTrainer(
            model,
            args=SFTConfig(**common, packing=True, packing_strategy="bfd"),
            train_dataset=rows,
            processing_class=tokenizer,
        )
    else:
        trainer = DPOTrainer(model, args=DPOConfig(**common, beta=0.1), train_dataset=rows, processing_class=tokenizer)
    trainer.add_callback(Gated())
    trainer.train()


if __name__ == "__main__":
    main()
