"""The draft of a model: what model components edit before an engine builds it."""

from __future__ import annotations

from typing import Any, Literal

from attrs import Factory, define

from smolrecipe.errors import StageError


@define(kw_only=True)
class ModelDraft:
    """A decoder in the making, handed from one model component to the next in the recipe's order.

    The first component sets ``decoder``, a torchtitan ``Decoder.Config``: a tree of torchtitan ``Config`` dataclasses
    with, per layer, ``attention`` (``qkv_linear``, ``rope``, ``inner_attention``), ``feed_forward`` and norms. The ones
    after it edit that tree in place. Components import torchtitan in their heavy module only.

    ``device``, ``sequence_length``, ``context_parallel`` and ``tensor_parallel`` say what the draft is built for, so
    that a component may choose a backend by hardware. An engine writes into configs, so nothing in the tree is shared
    between layers or drafts.

    An inner attention may have ``build_mask(positions)``: it is called once for each forward pass, with the positions
    of whole sequences, shape (B, L), and every layer gets what it returns as ``attention_masks``. Where the inner
    attention of every layer has ``build_documents(positions)`` besides, that is called in its place, unless sequences
    are shared between devices or layers are compiled.
    """

    device: Literal["cpu", "cuda"]
    sequence_length: int
    context_parallel: int = 1
    tensor_parallel: int = 1
    decoder: Any = None
    hf_parameters: dict[str, str] = Factory(dict)
    """Names of parameters, ``{}`` for the layer's index: torchtitan's name -> the Hugging Face checkpoint's name.
    A component that brings parameters adds them here."""

    def layers(self, component: str) -> list[Any]:
        """The decoder's layers, for the model component of that name to edit.

        Raises:
            StageError: when no component has set a decoder yet.
        """
        if self.decoder is None:
            raise StageError(
                f"model component '{component}' edits a decoder and there is none yet: "
                "list a component that makes one, such as 'decoder', before it"
            )
        layers: list[Any] = self.decoder.layers
        return layers


HfConfig = dict[str, Any]
"""The content of a Hugging Face ``config.json`` in the making."""
