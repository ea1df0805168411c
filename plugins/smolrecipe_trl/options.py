"""The options of ``sft`` and ``preference``, typed without importing an engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from attrs import frozen

from smolrecipe import Loss, Optimizer, Schedule, Source, StageRef, Use, option


@frozen(kw_only=True)
class Parallelism:
    """How a stage's work is shared. It does not change which rows a step sees, nor the result beyond rounding."""

    device: Literal["cpu", "cuda"] = option(default="cpu", identity=False, doc="where the model is trained")
    processes: int = option(default=1, at_least=1, identity=False, doc="processes, one accelerator each on cuda")
    sharding: Literal["none", "fsdp2"] = option(
        default="none",
        identity=False,
        doc="none: every process holds the whole model (DDP); fsdp2: parameters, gradients and optimizer are sharded",
    )
    memory_gib: float | None = option(
        default=None, more_than=0, identity=False, doc="memory of an accelerator that the layout was sized for, in GiB"
    )
    timeout_seconds: int = option(
        default=600,
        at_least=1,
        identity=False,
        doc="seconds that a process waits for the others, in training, measuring and saving, before the stage ends "
        "with an error. More than the slowest of them needs to write a checkpoint, or to compute a step",
    )


@frozen(kw_only=True)
class TrainingOptions:
    """What both stages share."""

    from_: StageRef = option(needs="hf-model", doc="the stage whose model is trained")
    data: Mapping[str, Use[Source]] = option(
        doc="named sources; their rows are joined and shuffled, each source as often as its rows"
    )
    held_out: Mapping[str, Use[Source]] = option(
        factory=dict,
        ordered=False,
        doc="named sources that are not trained on and are measured before and after",
    )
    chat_template: Literal["chatml", "smollm3", "compact"] | Path = option(
        doc="a built-in chat template or the path of a .jinja file; it becomes the model's"
    )
    eos_token: str = option(
        default="<|im_end|>",
        doc="the token that ends a turn: it becomes the tokenizer's and the generation's end of sequence",
        source="SmolLM3 sft.yaml",
    )
    max_length: int = option(at_least=2, doc="tokens of a training row at most")
    epochs: float | None = option(default=None, more_than=0, doc="passes over the data; this or max_steps")
    max_steps: int | None = option(default=None, at_least=1, doc="optimizer steps; this or epochs")
    global_batch: int = option(at_least=1, doc="rows (pairs, packed rows) of one optimizer step, over all processes")
    micro_batch: int = option(
        default=1,
        at_least=1,
        identity=False,
        doc="rows that one process computes at once; packed rows are laid end to end: on sdpa keep it low",
    )
    optimizer: Use[Optimizer] = option(doc="the optimizer; its groups are matched on Hugging Face parameter names")
    schedule: Use[Schedule] = option(doc="the learning-rate schedule, over the steps of all epochs")
    max_grad_norm: float = option(
        default=1.0, at_least=0, doc="norm that gradients are clipped to; 0 does not clip", source="TrainingArguments"
    )
    precision: Literal["bfloat16", "float32"] = option(
        default="bfloat16", doc="of the computation; weights and optimizer are float32 in any case"
    )
    save_precision: Literal["bfloat16", "float32"] = option(
        default="float32", doc="of the published weights; bfloat16 halves the files and rounds once"
    )
    activation_checkpointing: bool = option(
        default=False, identity=False, doc="recompute activations in the backward pass: less memory, a third more work"
    )
    attention: Literal["auto", "sdpa", "flash", "flex"] = option(
        default="auto",
        identity=False,
        doc="the kernel; sdpa has a dense mask for packed rows. auto is flash on cuda where flash-attn is installed, "
        "and on a CPU causal attention document by document where the model is nothing but causal; else sdpa",
    )
    seed: int = option(default=42, doc="of the order of rows and of everything else random", source="TrainingArguments")
    checkpoint_every: int = option(
        default=500,
        at_least=1,
        identity=False,
        doc="steps between the checkpoints that an interrupted stage resumes from. A stage that is asked to stop saves "
        "one more, after the step that it is in: it needs the time of one step and one checkpoint for it",
    )
    parallelism: Parallelism = option(factory=Parallelism, identity=False, doc="device, processes, sharding")


@frozen(kw_only=True)
class SftOptions(TrainingOptions):
    """Supervised fine-tuning and mid-training on conversations."""

    loss_on: Literal["all", "assistant"] = option(
        default="all",
        doc="the tokens that are learned: every token, or those between the template's generation markers",
    )
    packing: Literal["bfd", "bfd_split", "wrapped", "none"] = option(
        default="bfd",
        doc="bfd: several conversations in a row, apart from each other, longer ones truncated; bfd_split: longer ones "
        "continue in another row; wrapped: one stream cut into rows, attention across conversations; none: one a row",
        source="best fit decreasing as trl.pack_dataset, arXiv:2404.10830",
    )
    stop_after: float | None = option(
        default=None,
        more_than=0,
        doc="epochs after which training ends although the schedule is laid out for all of them",
        source="SmolLM3's SFT: 4 of 5",
    )


@frozen(kw_only=True)
class PreferenceOptions(TrainingOptions):
    """Preference optimisation against a frozen copy of the starting model."""

    loss: Use[Loss] = option(doc="the preference loss")
    keep: tuple[float, ...] = option(
        default=(), doc="fractions of the run after which a checkpoint is published: 0.5 is addressed as stage@0.5"
    )


def fraction_name(fraction: float) -> str:
    """What a recipe calls the checkpoint after ``fraction`` of the run: ``0.5`` for ``stage@0.5``."""
    return f"{fraction:g}"
