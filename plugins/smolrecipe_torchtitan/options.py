"""What a recipe may say about a decoder and about a pretraining stage."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from smolrecipe import Model, Optimizer, Packer, Schedule, StageRef, Use, option

PipelineSchedule = Literal[
    "1F1B", "GPipe", "Interleaved1F1B", "LoopedBFS", "InterleavedZeroBubble", "ZBVZeroBubble", "DualPipeV"
]

WHOLE_LAYERS_SCHEDULES = ("1F1B", "GPipe")
"""Schedules in which a process has one run of layers; in the others it has two."""

TRAINING_ONLY_SCHEDULES = ("ZBVZeroBubble", "DualPipeV")
"""Schedules that torch cannot run without a backward pass."""


@frozen(kw_only=True)
class DecoderOptions:
    """A plain pre-norm decoder, before other components edit it."""

    hidden_size: int = option(at_least=1, doc="width of the residual stream")
    num_layers: int = option(at_least=1, doc="number of layers")
    num_heads: int = option(at_least=1, doc="attention heads of a layer")
    head_dim: int | None = option(
        default=None, at_least=2, doc="width of one head; hidden_size / num_heads where not given"
    )
    intermediate_size: int = option(at_least=1, doc="width of the gated feed-forward network")
    vocab_size: int = option(at_least=1, doc="rows of the embedding matrix")
    rms_norm_eps: float = option(
        default=1e-6, more_than=0, source="SmolLM3 config.json", doc="epsilon of the RMS norms"
    )
    tie_embeddings: bool = option(
        default=True,
        source="SmolLM3 config.json, tie_word_embeddings",
        doc="whether input and output embeddings are one matrix",
    )
    init_std: float = option(
        default=0.02,
        more_than=0,
        source="SmolLM3 nanotron config, init_method.std",
        doc="standard deviation of the initial weights; norms start at 1",
    )
    depth_scaled_init: bool = option(
        default=True,
        source="nanotron InitScalingMethod.NUM_LAYERS",
        doc="whether projections back into the residual stream start at init_std / sqrt(2 * num_layers)",
    )

    @property
    def width_of_head(self) -> int:
        """``head_dim``, or what follows from the other options."""
        return self.head_dim if self.head_dim is not None else self.hidden_size // self.num_heads


@frozen(kw_only=True)
class ParallelismOptions:
    """How the work is spread over devices. The product of the degrees is the number of processes."""

    device: Literal["cpu", "cuda"] = option(default="cpu", identity=False, doc="where the processes compute")
    data_parallel: int = option(
        default=1, at_least=1, identity=False, doc="processes that share batch, weights and optimizer state (FSDP2)"
    )
    replicas: int = option(
        default=1, at_least=1, identity=False, doc="copies of such a group: DDP with data_parallel 1, else HSDP"
    )
    tensor_parallel: int = option(default=1, at_least=1, identity=False, doc="processes that share every matrix")
    sequence_parallel: bool = option(
        default=True,
        identity=False,
        doc="whether tensor parallelism also shares the activations between matrices, along the sequence",
    )
    context_parallel: int = option(default=1, at_least=1, identity=False, doc="processes that share every sequence")
    pipeline_parallel: int = option(default=1, at_least=1, identity=False, doc="processes that share the layers")
    pipeline_schedule: PipelineSchedule = option(
        default="1F1B", identity=False, doc="pipeline schedule, by its name in torch.distributed.pipelining"
    )
    pipeline_microbatch: int = option(
        default=1, at_least=1, identity=False, doc="sequences in one pipeline micro-batch; it divides micro_batch"
    )
    reshard_after_forward: Literal["default", "always", "never"] = option(
        default="default", identity=False, doc="whether FSDP2 frees gathered weights between forward and backward"
    )
    timeout_seconds: int = option(
        default=600,
        at_least=1,
        identity=False,
        doc="seconds that a process waits for the others, in training, measuring and saving, before the stage ends "
        "with an error; three times that until the first step is made. More than the slowest of them needs to write "
        "its part of a checkpoint, or to read a batch",
    )
    memory_gib: float | None = option(
        default=None, more_than=0, identity=False, doc="memory of one accelerator that this layout was sized for"
    )

    @property
    def data_processes(self) -> int:
        """How many processes read different samples."""
        return self.data_parallel * self.replicas

    @property
    def processes(self) -> int:
        """How many processes there are in all."""
        return self.data_processes * self.tensor_parallel * self.context_parallel * self.pipeline_parallel


@frozen(kw_only=True)
class PretrainOptions:
    """Next-token training of a decoder on packed rows of tokens."""

    model: Model = option(doc="the model, component by component")
    tokenizer: StageRef = option(needs="tokenizer", doc="the stage whose tokenizer made the data")
    data: Use[Packer] = option(doc="how token files become training samples")
    from_: StageRef | None = option(
        default=None,
        needs=("checkpoint", "hf-model"),
        doc="the stage to continue from, or a Hugging Face checkpoint (./folder, org/name@revision); a new model where "
        "not given",
    )
    carry: Literal["weights", "everything"] = option(
        default="weights",
        doc="what is taken over from the stage named by 'from'. weights: nothing else, so step count, schedule, "
        "optimizer and data start anew. everything: the optimizer's state, the step count, so that the stages follow "
        "one learning-rate trajectory, and how far each data source has been read; only another pretraining stage has "
        "these. This stage's own rates, weight decay and so on always hold",
    )
    steps: int = option(at_least=1, doc="optimizer steps of this stage")
    trajectory_steps: int | None = option(
        default=None,
        at_least=1,
        doc="optimizer steps of the learning-rate trajectory where it spans several stages; up to the end of this "
        "stage where not given",
    )
    sequence_length: int = option(at_least=2, doc="tokens of a sample that are trained on")
    global_batch: int = option(at_least=1, doc="samples in one optimizer step, over all processes")
    micro_batch: int = option(
        default=1, at_least=1, identity=False, doc="samples that a process computes at once; the rest is accumulated"
    )
    optimizer: Use[Optimizer] = option(doc="the optimizer, with its peak learning rate")
    schedule: Use[Schedule] = option(doc="the learning-rate schedule")
    max_grad_norm: float = option(
        default=1.0,
        more_than=0,
        source="SmolLM3 nanotron config, clip_grad",
        doc="gradients are scaled down to this norm",
    )
    precision: Literal["bfloat16", "float32"] = option(
        default="bfloat16", doc="of matrix products and activations; weights, gradients and optimizer stay in float32"
    )
    seed: int = option(default=0, at_least=0, doc="of the initial weights and of the order of the data")
    held_out_rows: int = option(
        default=64, at_least=0, doc="held-out samples on which the loss is measured before and after; 0 for none"
    )
    checkpoint_every: int = option(
        default=500,
        at_least=1,
        identity=False,
        doc="steps between checkpoints, from which an interrupted stage resumes. A stage that is asked to stop saves "
        "one more, after the step that it is in: it needs the time of one step and one checkpoint for it, of two where "
        "one was still being written",
    )
    keep_checkpoints: int = option(
        default=1,
        at_least=1,
        identity=False,
        doc="checkpoints that are published: the last one and the ones before it, which no stage reads",
    )
    publish_every: int | None = option(
        default=None,
        at_least=1,
        doc="also publish the model as a Hugging Face checkpoint after every step of the trajectory that is a multiple "
        "of this, itself one of 'checkpoint_every'; recipes write 'from: pretrain-1@step-40000'. That of the last step "
        "is the stage's own. With carry: everything it needs 'trajectory_steps'",
        source="SmolLM3-3B-checkpoints: every 40,000 steps, every 4,000 while the context was extended",
    )
    export_dtype: Literal["bfloat16", "float32"] | None = option(
        default=None, doc="of the weights in the Hugging Face checkpoint; the stage's precision where not given"
    )
    activation_checkpointing: Literal["none", "selective", "full"] = option(
        default="none", identity=False, doc="which activations are computed again in the backward pass to save memory"
    )
    loss_chunks: int = option(
        default=1,
        at_least=1,
        identity=False,
        doc="parts of a sequence whose logits are computed one after the other, to save memory; it divides "
        "sequence_length",
    )
    compile: bool = option(default=False, identity=False, doc="whether torch.compile compiles the layers")
    deterministic: bool = option(
        default=False,
        identity=False,
        doc="whether only deterministic GPU kernels are used, so that runs repeat bit by bit (they do on a CPU anyway)",
    )
    parallelism: ParallelismOptions = option(
        factory=ParallelismOptions, identity=False, doc="how the work is spread over devices"
    )
