"""Models that others have trained: a Hugging Face checkpoint, from a folder or the Hub, becomes a stage's artifact.

Recipes mostly use it without naming it: ``from: org/name``, ``from: org/name@revision`` or ``from: ./folder``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from attrs import frozen

from smolrecipe import Artifact, Proof, StageContext, StageKind, hookimpl, option


@frozen(kw_only=True)
class PretrainedModelOptions:
    """Which model: give either ``id`` or ``folder``."""

    id: str | None = option(default=None, doc="a model on the Hugging Face Hub")
    revision: str | None = option(
        default=None, doc="the commit, tag or branch on the Hub; a commit is the only one that never changes"
    )
    folder: Path | None = option(default=None, doc="a local folder with config.json and safetensors instead")


def from_reference(reference: str) -> PretrainedModelOptions:
    """The options for what a recipe writes in place of a stage: an absolute folder, ``org/name[@revision]``."""
    if reference.startswith("/"):
        return PretrainedModelOptions(folder=Path(reference))
    name, _, revision = reference.partition("@")
    return PretrainedModelOptions(id=name, revision=revision or None)


def check(options: PretrainedModelOptions) -> Iterator[str]:
    """Yield what is wrong with the options taken together."""
    if (options.id is None) == (options.folder is None):
        yield "give either 'id' or 'folder'"
    if options.folder is not None and options.revision is not None:
        yield "'revision' is of a model on the Hub; a folder has none"
    if options.id is not None and (options.id.count("/") > 1 or options.id.startswith(("/", ".", "-"))):
        yield f"'{options.id}' is no name on the Hub, which is 'organisation/model': write a folder as ./{options.id}"


def missing(options: PretrainedModelOptions) -> Iterator[str]:
    """Yield what is not on this machine."""
    if options.folder is not None and not (options.folder / "config.json").is_file():
        yield f"{options.folder} is no Hugging Face checkpoint (it has no config.json)"


def produces(options: PretrainedModelOptions) -> Mapping[str, Literal[True] | str]:
    """A model, and a tokenizer where the folder has one."""
    if options.folder is not None and options.folder.is_dir() and not (options.folder / "tokenizer.json").is_file():
        return {"hf-model": True, "tokenizer": f"{options.folder} has no tokenizer.json"}
    return {"hf-model": True, "tokenizer": True}


def run(options: PretrainedModelOptions, context: StageContext) -> Artifact:
    """Bring the model in, see ``smolrecipe_pretrained.bring_in``."""
    from smolrecipe_pretrained.bring_in import bring_in

    return bring_in(options, context)


def verify(options: PretrainedModelOptions, context: StageContext) -> Iterator[Proof]:
    """Compare the artifact with the class that transformers has for it, see ``smolrecipe_pretrained.fit``."""
    from smolrecipe_pretrained.fit import proofs

    return proofs(context.folder)


@hookimpl
def smolrecipe_stages() -> Iterator[StageKind]:
    """Offer ``pretrained_model``."""
    yield StageKind(
        name="pretrained_model",
        summary="a Hugging Face checkpoint from a folder or the Hub, every tensor checked",
        source="transformers; huggingface_hub",
        options=PretrainedModelOptions,
        check=check,
        missing=missing,
        requires=("torch", "transformers", "safetensors", "huggingface_hub"),
        extra="export",
        run=run,
        produces=produces,
        verify=verify,
        imports=from_reference,
        example={"id": "HuggingFaceTB/SmolLM3-3B-Base", "revision": "main"},
    )
