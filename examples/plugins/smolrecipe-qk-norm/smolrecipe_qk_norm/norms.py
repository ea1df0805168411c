"""QK-norm on torchtitan's ``GQAttention`` config, which has a place for it."""

from __future__ import annotations

import spmd_types as spmd
from torch.nn.init import ones_
from torchtitan.models.common import RMSNorm
from torchtitan.models.common.attention import GQAttention
from torchtitan.models.common.decoder_sharding import dense_activation_placement, dense_param_placement
from torchtitan.protocols.sharding import ShardingConfig

from smolrecipe import ModelDraft, StageError
from smolrecipe_qk_norm import QkNormOptions

HF_PARAMETERS = {
    f"layers.{{}}.attention.{name}.weight": f"model.layers.{{}}.self_attn.{name}.weight"
    for name in ("q_norm", "k_norm")
}
"""torchtitan's names of the norms -> Qwen3's."""


def apply(draft: ModelDraft, options: QkNormOptions) -> None:
    """See ``smolrecipe_qk_norm.apply``."""
    for index, layer in enumerate(draft.layers("qk_norm")):
        attention = layer.attention
        if not isinstance(attention, GQAttention.Config):
            kind = type(attention).__qualname__.removesuffix(".Config")
            raise StageError(
                f"model component 'qk_norm' cannot edit layer {index}: its attention is {kind}, not torchtitan's "
                "GQAttention"
            )
        if attention.qk_norm is not None:
            raise StageError(f"model component 'qk_norm' finds norms in layer {index} already: list it once")
        heads = dense_activation_placement(tp=spmd.S(2))
        attention.qk_norm = RMSNorm.Config(
            normalized_shape=attention.head_dim or attention.dim // attention.n_heads,
            eps=options.eps,
            param_init={"weight": ones_},
            # Every device has the whole norm and its own heads under tensor parallelism, as in torchtitan's Qwen3.
            sharding_config=ShardingConfig(
                state_shardings={"weight": dense_param_placement(tp=spmd.R)},
                in_src_shardings={"input": heads},
                in_dst_shardings={"input": heads},
                out_src_shardings=heads,
                out_dst_shardings=heads,
            ),
        )
    draft.hf_parameters.update(HF_PARAMETERS)
