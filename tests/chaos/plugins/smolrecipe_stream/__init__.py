"""Notes which rows each process of a stage computes in each step, where the environment variable CHAOS_STREAM says so.

What is noted is what the engines are given to compute, after all that could mix up rows: a checksum of the tokens
and labels of every row, in the folder that the variable names.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import smolrecipe


@smolrecipe.hookimpl
def smolrecipe_before_stage(run: smolrecipe.StageContext) -> None:
    """Look over the shoulder of both engines."""
    folder = os.environ.get("CHAOS_STREAM")
    if not folder:
        return
    from smolrecipe_torchtitan.device import use_device

    use_device("cpu")  # before the trainer is imported
    from torchtitan.trainer import Trainer as TitanTrainer
    from transformers import Trainer

    path = Path(folder) / f"{run.rank}-of-{run.world_size}.jsonl"
    compute, train = TitanTrainer.forward_backward_step, Trainer.training_step

    def note(step: int, tokens: Any, labels: Any) -> None:
        rows = [
            zlib.crc32(row.numpy().tobytes() + label.numpy().tobytes())
            for row, label in zip(tokens, labels, strict=True)
        ]
        with path.open("a") as file:
            file.write(json.dumps({"step": step, "rows": rows}) + "\n")

    def noted_compute(self: Any, *, input_dict: Any, labels: Any, **rest: Any) -> Any:
        note(self.step, input_dict["input"], labels)
        return compute(self, input_dict=input_dict, labels=labels, **rest)

    def noted_train(self: Any, model: Any, inputs: Any, *rest: Any) -> Any:
        note(self.state.global_step + 1, inputs["input_ids"], inputs["labels"])
        return train(self, model, inputs, *rest)

    TitanTrainer.forward_backward_step, Trainer.training_step = noted_compute, noted_train
