"""Intra-document masking on torchtitan's configs.

torchtitan's trainer builds masks from the positions of a batch for its flex and varlen configs (and their subclasses);
for ``DocumentwiseAttention`` the decoder calls ``build_documents`` or ``build_mask`` once per forward pass.
"""

from __future__ import annotations

from torchtitan.models.common.attention import FlexAttention, VarlenAttention  # noqa: TID253
from torchtitan.protocols.module import Module  # noqa: TID253

from smolrecipe import ModelDraft, StageError
from smolrecipe_docmask import DocmaskOptions
from smolrecipe_docmask.backends import choose
from smolrecipe_docmask.dense import DenseDocumentAttention
from smolrecipe_docmask.documentwise import DocumentwiseAttention


def apply(draft: ModelDraft, options: DocmaskOptions) -> None:
    """See ``smolrecipe_docmask.apply``."""
    layers = draft.layers("docmask")
    config = _config_class(choose(draft, options), draft.device)
    for index, layer in enumerate(layers):
        if not hasattr(layer.attention, "inner_attention"):
            raise StageError(
                f"model component 'docmask' cannot edit layer {index}: its attention has no inner attention to replace"
            )
        # One config object for each layer: torchtitan writes a layer's sharding into it.
        layer.attention.inner_attention = config()


def _config_class(backend: str, device: str) -> type[Module.Config]:
    if backend == "flash":
        from smolrecipe_docmask.flash import FlashDocumentAttention  # the library is optional

        return FlashDocumentAttention.Config
    classes: dict[str, type[Module.Config]] = {
        # A GPU would wait for the lengths of documents at every step.
        "sdpa": DocumentwiseAttention.Config if device == "cpu" else DenseDocumentAttention.Config,
        "flex": FlexAttention.Config,
        "varlen": VarlenAttention.Config,
    }
    return classes[backend]
