"""The decoder that model components edit: torchtitan's Llama 3 model with three additions.

Initial weights that do not depend on how the model is sharded, one document mask per step for attention modules that
want one, and plain causal attention for a recipe that asks for nothing else.

Shape suffixes: B batch, L sequence length, N heads, H head dimension.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch  # noqa: TID253
import torch.distributed as dist  # noqa: TID253
import torch.nn.functional as F  # noqa: TID253
from torch import nn  # noqa: TID253
from torch.distributed.tensor import DTensor, Replicate  # noqa: TID253
from torchtitan.components.checkpointer.utils import canonical_fqn  # noqa: TID253
from torchtitan.distributed import ParallelDims  # noqa: TID253
from torchtitan.models.common import CosSinRoPE, Embedding, Linear, RMSNorm  # noqa: TID253
from torchtitan.models.common.attention import FlexAttention, VarlenAttention  # noqa: TID253
from torchtitan.models.common.config_utils import make_ffn_config, make_gqa_config  # noqa: TID253
from torchtitan.models.common.param_init import skip_param_init  # noqa: TID253
from torchtitan.models.llama3.model import Llama3Model, Llama3TransformerBlock  # noqa: TID253
from torchtitan.models.utils import get_dense_model_nparams_and_flops  # noqa: TID253
from torchtitan.protocols.module import Module  # noqa: TID253

from smolrecipe import ModelDraft, StageError
from smolrecipe_torchtitan.options import DecoderOptions

Initializer = Callable[[torch.Tensor], Any]

HF_PARAMETERS = {
    "tok_embeddings.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "lm_head.weight": "lm_head.weight",
    "layers.{}.attention_norm.weight": "model.layers.{}.input_layernorm.weight",
    "layers.{}.attention.qkv_linear.wq.weight": "model.layers.{}.self_attn.q_proj.weight",
    "layers.{}.attention.qkv_linear.wk.weight": "model.layers.{}.self_attn.k_proj.weight",
    "layers.{}.attention.qkv_linear.wv.weight": "model.layers.{}.self_attn.v_proj.weight",
    "layers.{}.attention.wo.weight": "model.layers.{}.self_attn.o_proj.weight",
    "layers.{}.ffn_norm.weight": "model.layers.{}.post_attention_layernorm.weight",
    "layers.{}.feed_forward.w1.weight": "model.layers.{}.mlp.gate_proj.weight",
    "layers.{}.feed_forward.w3.weight": "model.layers.{}.mlp.up_proj.weight",
    "layers.{}.feed_forward.w2.weight": "model.layers.{}.mlp.down_proj.weight",
}
"""torchtitan's parameter names -> those of Hugging Face's Llama-like models, SmolLM3 among them."""


class CausalAttention(Module):
    """Causal attention over the whole row, whatever documents lie in it.

    torchtitan's own SDPA module does the same and refuses masks, which context parallelism needs.
    """

    sees_documents = False

    @dataclass(kw_only=True, slots=True)
    class Config(Module.Config):
        """Nothing to configure."""

    def __init__(self, config: Config) -> None:
        super().__init__()

    def forward(
        self,
        q_BLNH: torch.Tensor,
        k_BLNH: torch.Tensor,
        v_BLNH: torch.Tensor,
        *,
        attention_masks: torch.Tensor | None = None,
        scale: float | None = None,
        enable_gqa: bool = False,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Attend. torchtitan's sharding config fixes the names of the first three arguments.

        ``attention_masks``, where given, has the shape (B or 1, 1, L of queries, L of keys), true where to attend.
        """
        out_BNLH = F.scaled_dot_product_attention(
            q_BLNH.transpose(1, 2),
            k_BLNH.transpose(1, 2),
            v_BLNH.transpose(1, 2),
            attn_mask=attention_masks,
            is_causal=attention_masks is None,
            scale=scale,
            enable_gqa=enable_gqa,
        )
        return out_BNLH.transpose(1, 2)


class SharedCausalAttention(CausalAttention):
    """Causal attention for queries that are only a part of the sequence: context parallelism on a CPU."""

    @dataclass(kw_only=True, slots=True)
    class Config(CausalAttention.Config):
        """Nothing to configure."""

    def build_mask(self, positions: torch.Tensor) -> torch.Tensor:
        """The causal mask of whole sequences, shape (1, 1, L, L), for ``positions`` of shape (B, L)."""
        length = positions.shape[1]
        return torch.ones(1, 1, length, length, dtype=torch.bool, device=positions.device).tril()


class CausalFlexAttention(FlexAttention):
    """The same on a GPU: torchtitan builds FlexAttention's mask, from positions that never restart."""

    sees_documents = False

    @dataclass(kw_only=True, slots=True)
    class Config(FlexAttention.Config):
        """As FlexAttention's."""


class RecipeDecoder(Llama3Model):
    """torchtitan's Llama 3 model as recipes use it.

    An inner-attention module may have a method ``build_mask(positions) -> mask``. It is then called once per forward
    pass, with the positions of whole sequences, shape (B, L), and every layer gets its mask, of shape (..., L, L) with
    queries before keys. Where every layer's has a method ``build_documents(positions)`` besides, layers get what that
    returns, unless they hold a part of each sequence or are compiled: every batch of other lengths would compile anew.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(Llama3Model.Config):
        """Llama 3's, with the seed of the initial weights; the trainer sets it from its own."""

        init_seed: int = 0

        def update_from_config(self, *, config: Any, **kwargs: Any) -> None:
            """Take over what the trainer's config says. Called by torchtitan before it builds the model."""
            Llama3Model.Config.update_from_config(self, config=config, **kwargs)
            self.init_seed = config.debug.seed or 0

        def get_nparams_and_flops(self, model: nn.Module, seq_len: int) -> tuple[int, int]:
            """Number of parameters, and floating point operations per token of a training step."""
            attention = self.layers[0].attention
            head_dim = attention.head_dim or self.dim // attention.n_heads
            return get_dense_model_nparams_and_flops(
                model,
                n_layers=len(self.layers),
                n_heads=attention.n_heads,
                head_dims=2 * head_dim,
                seq_len=seq_len,
                enable_weight_tying=self.enable_weight_tying,
            )

    context_group: dist.ProcessGroup | None = None
    """The processes that share every sequence; set when the model is parallelized."""

    def forward(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor | None = None,
        attention_masks: Any = None,
    ) -> torch.Tensor:
        """Logits, or hidden states on a pipeline stage that is not the last.

        ``tokens`` and ``positions`` have the shape (B, L); on later pipeline stages ``tokens`` are hidden states.
        """
        if attention_masks is None:
            attention_masks = self._build_mask(tokens, positions)
        return super().forward(tokens, positions, attention_masks)

    def _build_mask(self, tokens: torch.Tensor, positions: torch.Tensor | None) -> Any:
        layers: list[Any] = list(self.layers.values())
        inner = [layer.attention.inner_attention for layer in layers]
        build_mask = getattr(inner[0], "build_mask", None) if inner else None  # a pipeline stage may have no layer
        if build_mask is None:
            return None
        batch, length = tokens.shape[:2]
        if positions is None:
            positions = torch.arange(length, device=tokens.device).expand(batch, length)
        if self.context_group is None:
            by_document = all(hasattr(attention, "build_documents") for attention in inner)
            compiled = any(layer._compiled_call_impl is not None for layer in layers)
            return inner[0].build_documents(positions) if by_document and not compiled else build_mask(positions)
        positions = positions.contiguous()
        shares = [torch.empty_like(positions) for _ in range(dist.get_world_size(self.context_group))]
        dist.all_gather(shares, positions, group=self.context_group)
        first = dist.get_rank(self.context_group) * length
        return build_mask(torch.cat(shares, dim=1))[..., first : first + length, :]

    def parallelize(self, parallel_dims: ParallelDims) -> None:
        """Share the modules over the processes, the one matrix of tied embeddings as one.

        torchtitan shares it twice, once for each module that has it, and ties the halves again later. FSDP2 has then
        wrapped both, and where the rows cannot be shared evenly, it fills up a copy for each: the optimizer trains one,
        and the input embeddings go on being read from the other, without a word.
        """
        super().parallelize(parallel_dims)
        if self.enable_weight_tying:
            self.tok_embeddings.weight = self.lm_head.weight

    def init_states(self, *, buffer_device: torch.device | None = None) -> None:
        """Fill parameters and buffers; the same seed gives the same weights in every parallel layout.

        torchtitan draws each process' shard by itself, which gives all shards the same numbers on a CPU and other
        weights for another number of pipeline stages everywhere.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="DTensor random operators")  # their numbers are replaced below
            super().init_states(buffer_device=buffer_device)
        for module_name, module in self.named_modules():
            initializers = getattr(module, "_param_init", None) or {}
            for name, parameter in module.named_parameters(recurse=False):
                initialize = initializers.get(name)
                if initialize is not None and initialize is not skip_param_init:
                    key = f"{self.config.init_seed}:{canonical_fqn(f'{module_name}.{name}')}"
                    _fill(parameter, initialize, int.from_bytes(hashlib.sha256(key.encode()).digest()[:7]))


@torch.no_grad()
def _fill(parameter: torch.Tensor, initialize: Initializer, seed: int) -> None:
    """Draw the whole parameter and keep this process' part of it."""
    whole = torch.empty(parameter.shape, dtype=parameter.dtype, device=parameter.device)
    with torch.random.fork_rng([whole.device] if whole.is_cuda else []):
        torch.manual_seed(seed)
        initialize(whole)
    if isinstance(parameter, DTensor):
        mesh = parameter.device_mesh
        whole = DTensor.from_local(whole, mesh, [Replicate()] * mesh.ndim, run_check=False)
    parameter.copy_(whole)


def sees_documents(decoder: Any) -> bool:
    """Whether the decoder's attention stays within documents, so that positions may restart inside a row."""
    inner_attention = decoder.first_attention.inner_attention
    module = type(inner_attention)._owner
    declared: bool | None = getattr(module, "sees_documents", None)
    if declared is not None:
        return declared
    masked_by_trainer = isinstance(inner_attention, (FlexAttention.Config, VarlenAttention.Config))
    return masked_by_trainer or hasattr(module, "build_mask")


def apply(draft: ModelDraft, options: DecoderOptions) -> None:
    """See ``smolrecipe_torchtitan.apply_decoder``."""
    if draft.decoder is not None:
        raise StageError(
            "model component 'decoder' makes the decoder and one is there already: list it first, and once"
        )
    normal = partial(nn.init.normal_, mean=0.0, std=options.init_std)
    scale = (2 * options.num_layers) ** -0.5 if options.depth_scaled_init else 1.0
    into_residual = partial(nn.init.normal_, mean=0.0, std=options.init_std * scale)
    draft.decoder = RecipeDecoder.Config(
        dim=options.hidden_size,
        vocab_size=options.vocab_size,
        enable_weight_tying=options.tie_embeddings,
        tok_embeddings=Embedding.Config(
            num_embeddings=options.vocab_size,
            embedding_dim=options.hidden_size,
            # The one matrix of tied embeddings belongs to lm_head.
            param_init={"weight": skip_param_init if options.tie_embeddings else normal},
        ),
        norm=_norm(options),
        lm_head=Linear.Config(
            in_features=options.hidden_size, out_features=options.vocab_size, param_init={"weight": normal}
        ),
        # One tree per layer: components edit single layers in place.
        layers=[_layer(draft, options, normal, into_residual) for _ in range(options.num_layers)],
    )
    draft.hf_parameters.update(HF_PARAMETERS)


def _layer(
    draft: ModelDraft, options: DecoderOptions, normal: Initializer, into_residual: Initializer
) -> Llama3TransformerBlock.Config:
    feed_forward = make_ffn_config(
        dim=options.hidden_size,
        hidden_dim=options.intermediate_size,
        w1_param_init={"weight": normal},
        w2w3_param_init={"weight": normal},
    )
    feed_forward.w2.param_init = {"weight": into_residual}
    return Llama3TransformerBlock.Config(
        attention_norm=_norm(options),
        ffn_norm=_norm(options),
        attention=make_gqa_config(
            dim=options.hidden_size,
            n_heads=options.num_heads,
            n_kv_heads=options.num_heads,
            head_dim=options.head_dim,
            wqkv_param_init={"weight": normal},
            wo_param_init={"weight": into_residual},
            inner_attention=_inner_attention(draft),
            rope=CosSinRoPE.Config(dim=options.width_of_head, max_seq_len=draft.sequence_length),
        ),
        feed_forward=feed_forward,
    )


def _norm(options: DecoderOptions) -> RMSNorm.Config:
    return RMSNorm.Config(
        normalized_shape=options.hidden_size, eps=options.rms_norm_eps, param_init={"weight": nn.init.ones_}
    )


def _inner_attention(draft: ModelDraft) -> Module.Config:
    if draft.context_parallel == 1:
        return CausalAttention.Config()
    return CausalFlexAttention.Config() if draft.device == "cuda" else SharedCausalAttention.Config()
