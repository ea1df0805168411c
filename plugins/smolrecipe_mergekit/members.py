"""The models of a merge, compared before mergekit sees them.

mergekit merges without a word models of unequal depth, tied with untied ones, or checkpoints whose configuration says
that the same weights mean something else (another RoPE theta, other layers without RoPE, another vocabulary).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch  # noqa: TID253
from attrs import frozen
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer  # noqa: TID253

from smolrecipe import StageError, untrusted
from smolrecipe.checkpoint import CONFIG_FILE, LONGEST_SECONDS, check_checkpoint, misfits

DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
"""safetensors' names of the dtypes that models come in -> torch's."""

_NO_PART_OF_THE_FUNCTION = {
    "_name_or_path", "architectures", "attention_dropout", "bos_token_id", "dtype", "eos_token_id", "initializer_range",
    "max_position_embeddings", "pad_token_id", "torch_dtype", "transformers_version", "use_cache",
}  # fmt: skip
"""Keys of a config.json that may differ between models whose weights can still be averaged."""


@frozen(kw_only=True)
class Checkpoint:
    """A Hugging Face checkpoint on disk: its configuration, defaults filled in, and each tensor's dtype and shape."""

    name: str
    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]

    @property
    def dtypes(self) -> set[str]:
        """The dtypes of its tensors."""
        return {dtype for dtype, _ in self.tensors.values()}


def read(name: str, folder: Path) -> Checkpoint:
    """The checkpoint in ``folder``, which stage ``name`` published.

    Raises:
        StageError: when the folder holds no safetensors, or something that mergekit is not to be given.
    """
    held = check_checkpoint(folder)
    if found := misfits(folder, held, _build)[0]:
        raise StageError(
            f"the weights of '{name}' are not those of its configuration ({folder}): it {'; it '.join(found)}"
        )
    tensors = {key: (DTYPES.get(tensor.dtype, tensor.dtype), tensor.shape) for key, tensor in held.items()}
    with untrusted(f"transformers cannot read {folder / CONFIG_FILE}", seconds=LONGEST_SECONDS):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).to_dict()
    return Checkpoint(name=name, folder=folder, config=config, tensors=tensors)


def _build(folder: Path) -> Any:
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def compare(checkpoints: Sequence[Checkpoint], reference: Checkpoint) -> None:
    """Check that all checkpoints are the same function of their weights.

    Raises:
        StageError: naming the stages and what differs between them.
    """
    for other in checkpoints:
        if other is not reference:
            _compare_configs(reference, other)
            _compare_tensors(reference, other)
            _compare_vocabularies(reference, other)


def common_dtype(checkpoints: Sequence[Checkpoint]) -> str:
    """The dtype of all tensors of all checkpoints.

    Raises:
        StageError: when there is more than one, since mergekit would then leave every tensor in another dtype.
    """
    found = {checkpoint.name: "+".join(sorted(checkpoint.dtypes)) for checkpoint in checkpoints}
    if len(set(found.values())) > 1 or any("+" in dtypes for dtypes in found.values()):
        listed = ", ".join(f"'{name}' {dtypes}" for name, dtypes in found.items())
        raise StageError(f"the models to merge come in different dtypes ({listed}): say 'out_dtype'")
    return next(iter(found.values()))


def _compare_configs(reference: Checkpoint, other: Checkpoint) -> None:
    for key, words in (
        ("model_type", "are different architectures"),
        ("num_hidden_layers", "have different numbers of layers"),
        ("tie_word_embeddings", "do not both tie their embeddings to the output projection"),
    ):
        ours, theirs = reference.config.get(key), other.config.get(key)
        if ours != theirs:
            raise StageError(
                f"'{reference.name}' and '{other.name}' {words} ({key} {ours} and {theirs}), so they cannot be merged"
            )
    keys = (set(reference.config) | set(other.config)) - _NO_PART_OF_THE_FUNCTION
    differing = [key for key in sorted(keys) if reference.config.get(key) != other.config.get(key)]
    if differing:
        listed = "; ".join(f"{key} {reference.config.get(key)} and {other.config.get(key)}" for key in differing)
        raise StageError(
            f"'{reference.name}' and '{other.name}' differ in their configuration, so their weights do not mean the "
            f"same: {listed}"
        )


def _compare_tensors(reference: Checkpoint, other: Checkpoint) -> None:
    for one, two in ((reference, other), (other, reference)):
        missing = sorted(set(one.tensors) - set(two.tensors))
        if missing:
            raise StageError(
                f"'{two.name}' lacks {len(missing)} tensors that '{one.name}' has ({', '.join(missing[:3])}"
                f"{', ...' if len(missing) > 3 else ''}), so they cannot be merged"
            )
    for key, (_, shape) in reference.tensors.items():
        if other.tensors[key][1] != shape:
            raise StageError(
                f"'{reference.name}' and '{other.name}' have different shapes of {key}: {list(shape)} and "
                f"{list(other.tensors[key][1])}"
            )


def _compare_vocabularies(reference: Checkpoint, other: Checkpoint) -> None:
    ours, theirs = (_vocabulary(checkpoint) for checkpoint in (reference, other))
    if ours == theirs:
        return
    tokens = sorted(token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token))
    raise StageError(
        f"the tokenizers of '{reference.name}' and '{other.name}' give {len(tokens)} tokens different numbers (first: "
        f"{tokens[0]!r}), so the rows of their embeddings do not mean the same"
    )


def _vocabulary(checkpoint: Checkpoint) -> dict[str, int]:
    folder = checkpoint.folder
    what = f"the model of '{checkpoint.name}' has no tokenizer that loads ({folder}, tokenizer.json and its config)"
    with untrusted(what, seconds=LONGEST_SECONDS):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        vocabulary: dict[str, int] = tokenizer.get_vocab()
    return vocabulary
