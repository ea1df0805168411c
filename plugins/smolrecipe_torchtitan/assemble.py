"""From a stage's options to torchtitan: the drafted model and the trainer's configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch  # noqa: TID253
from attrs import frozen
from torch import nn  # noqa: TID253
from torch.distributed.fsdp import FSDPModule  # noqa: TID253
from torchtitan.components.loss import BaseLoss, ChunkedLossWrapper, CrossEntropyLoss  # noqa: TID253
from torchtitan.components.tokenizer import BaseTokenizer  # noqa: TID253
from torchtitan.config import CommConfig, CompileConfig, DebugConfig, ParallelismConfig, TrainingConfig  # noqa: TID253
from torchtitan.distributed import ParallelDims  # noqa: TID253
from torchtitan.distributed.activation_checkpoint import FullAC, SelectiveAC  # noqa: TID253
from torchtitan.distributed.pipeline_parallel import pipeline_llm  # noqa: TID253
from torchtitan.models.llama3.parallelize import parallelize_llama  # noqa: TID253
from torchtitan.protocols.model_spec import ModelSpec  # noqa: TID253

from smolrecipe import ModelDraft, StageContext, StageError, TokenRows
from smolrecipe.stage import CHECKPOINTS_FOLDER
from smolrecipe_torchtitan.checkpoints import StageCheckpoints
from smolrecipe_torchtitan.decoder import sees_documents
from smolrecipe_torchtitan.hugging_face import RecipeAdapter
from smolrecipe_torchtitan.metrics import StageMetrics
from smolrecipe_torchtitan.optimization import optimizer_config, schedule_config
from smolrecipe_torchtitan.options import ParallelismOptions, PretrainOptions
from smolrecipe_torchtitan.samples import SampleLoader
from smolrecipe_torchtitan.start import Shapes, Start
from smolrecipe_torchtitan.together import FIRST_STEP
from smolrecipe_torchtitan.trainer import StageTrainer

ACTIVATION_CHECKPOINTING = {"none": None, "selective": SelectiveAC.Config, "full": FullAC.Config}


@frozen(kw_only=True)
class DraftedModel:
    """A model as its components have left it.

    ``decoder`` is a torchtitan decoder config; ``parameters`` has the shapes of all its parameters.
    """

    draft: ModelDraft
    parameters: Shapes
    restart_positions: bool

    @property
    def decoder(self) -> Any:
        """The draft's decoder config."""
        return self.draft.decoder


class NoTokenizer(BaseTokenizer):
    """torchtitan wants a tokenizer; the samples are tokens already."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseTokenizer.Config):
        """Nothing to configure."""

    def __init__(self, config: Config, **kwargs: Any) -> None:
        super().__init__()

    def encode(self, *args: Any, **kwargs: Any) -> list[int]:
        """Not to be called."""
        raise NotImplementedError

    def decode(self, *args: Any, **kwargs: Any) -> str:
        """Not to be called."""
        raise NotImplementedError

    def get_vocab_size(self) -> int:
        """Not to be called."""
        raise NotImplementedError


def draft_model(options: PretrainOptions) -> DraftedModel:
    """Let the recipe's model components draft the decoder, in their order.

    Raises:
        StageError: when none of them makes a decoder, or one cannot do its part.
    """
    layout = options.parallelism
    draft = ModelDraft(
        device=layout.device,
        sequence_length=options.sequence_length,
        context_parallel=layout.context_parallel,
        tensor_parallel=layout.tensor_parallel,
    )
    for use in options.model.components.values():
        use.component.apply(draft, use.options)
    if draft.decoder is None:
        raise StageError("no model component makes a decoder: list one that does, such as 'decoder', first")
    with torch.device("meta"):
        model = draft.decoder.build()
    return DraftedModel(
        draft=draft,
        parameters={name: tuple(value.shape) for name, value in model.state_dict().items()},
        restart_positions=sees_documents(draft.decoder),
    )


def trainer_config(
    options: PretrainOptions,
    context: StageContext,
    *,
    model: DraftedModel,
    rows: TokenRows,
    start: Start,
    names: dict[str, str] | None,
    heed: Callable[[], bool] = lambda: False,
    saved: Callable[[int], None] = lambda step: None,
) -> StageTrainer.Config:
    """The configuration of torchtitan's trainer.

    ``names`` are the parameters' Hugging Face names, where they exist; ``heed`` says whether the stage is to stop;
    ``saved`` is told in every process of each checkpoint that is whole, by its step in this stage.
    """
    layout = options.parallelism
    last = start.step + options.steps
    source = start.hugging_face or start.checkpoint

    def report(step: int, **measured: float) -> None:
        context.progress(step, options.steps, **measured)

    return StageTrainer.Config(
        before=start.step,
        heed=heed,
        model_spec=ModelSpec(
            name=context.recipe,
            flavor=context.stage,
            model=model.decoder,
            parallelize_fn=parallelize,
            pipelining_fn=pipeline_llm,
            post_optimizer_build_fn=None,
            state_dict_adapter=None if names is None else partial(RecipeAdapter, names),
        ),
        hf_assets_path="",
        dump_folder=str(context.folder.absolute()),
        tokenizer=NoTokenizer.Config(),
        dataloader=SampleLoader.Config(rows=lambda: rows, restart_positions=model.restart_positions),
        loss=_loss(options, model.decoder.vocab_size),
        optimizer=optimizer_config(options.optimizer),
        lr_scheduler=schedule_config(options.schedule, options.trajectory_steps or last),
        training=TrainingConfig(
            local_batch_size=options.micro_batch,
            global_batch_size=options.global_batch,
            seq_len=options.sequence_length,
            max_norm=options.max_grad_norm,
            steps=last,
            mixed_precision_param=options.precision,
            disable_cuda_graphs=True,  # variable-length attention and pipelines cannot be captured
        ),
        parallelism=_parallelism(layout),
        activation_checkpoint=_activation_checkpointing(options),
        compile=CompileConfig(enable=options.compile),
        metrics=StageMetrics.Config(
            report=report, tokens_per_step=options.global_batch * options.sequence_length, before=start.step
        ),
        debug=DebugConfig(seed=options.seed, deterministic=options.deterministic, enable_structured_logging=False),
        comm=CommConfig(
            init_timeout_seconds=FIRST_STEP * layout.timeout_seconds,
            train_timeout_seconds=layout.timeout_seconds,
            trace_buf_size=0,
        ),
        checkpoint=StageCheckpoints.Config(
            enable=True,
            folder=CHECKPOINTS_FOLDER,
            interval=options.checkpoint_every,
            async_mode="async",  # pinned memory needs a GPU
            keep=options.keep_checkpoints,
            keep_latest_k=0,  # torchtitan would count those that are not whole
            saved=saved,
            before=start.step,
            last_save_model_only=False,
            initial_load_path=None if source is None else str(source),
            initial_load_in_hf=start.hugging_face is not None,
            initial_load_model_only=source is not None and not start.everything,
        ),
    )


def parallelize(model: nn.Module, *, parallel_dims: ParallelDims, **kwargs: Any) -> nn.Module:
    """torchtitan's Llama 3 parallelization, and what our decoder and gloo need beyond it."""
    if parallel_dims.cp_enabled:
        model.context_group = parallel_dims.get_mesh("cp").get_group()
    model = parallelize_llama(model, parallel_dims=parallel_dims, **kwargs)
    if parallel_dims.world_mesh.device_type == "cpu":
        for module in model.modules():
            if isinstance(module, FSDPModule):
                # gloo cannot scale while it sums, which FSDP2 asks for otherwise.
                module.set_force_sum_reduction_for_comms(True)
    return model


def _parallelism(layout: ParallelismOptions) -> ParallelismConfig:
    return ParallelismConfig(
        data_parallel_replicate_degree=layout.replicas,
        data_parallel_shard_degree=layout.data_parallel,
        fsdp_reshard_after_forward=layout.reshard_after_forward,
        tensor_parallel_degree=layout.tensor_parallel,
        enable_sequence_parallel=layout.sequence_parallel,
        context_parallel_degree=layout.context_parallel,
        # Balancing reorders the sequence, and document masks are built from its order.
        context_parallel_load_balancer=None,
        pipeline_parallel_degree=layout.pipeline_parallel,
        pipeline_parallel_schedule=layout.pipeline_schedule,
        pipeline_parallel_microbatch_size=layout.pipeline_microbatch,
    )


def _activation_checkpointing(options: PretrainOptions) -> Any:
    config = ACTIVATION_CHECKPOINTING[options.activation_checkpointing]
    return None if config is None else config()


def _loss(options: PretrainOptions, vocab_size: int) -> BaseLoss.Config:
    loss = CrossEntropyLoss.Config(global_vocab_size=vocab_size)
    return loss if options.loss_chunks == 1 else ChunkedLossWrapper.Config(num_chunks=options.loss_chunks, loss_fn=loss)
