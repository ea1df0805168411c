"""The checkpoints that a stage publishes on the way: they are there, whole, and not the final model once more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch  # noqa: TID253
from safetensors import safe_open

from smolrecipe import Proof, StageContext
from smolrecipe.stage import CHECKPOINTS_FOLDER, MODEL_FOLDER
from smolrecipe_trl.options import PreferenceOptions, fraction_name
from smolrecipe_trl.proofs.training import load_plain


def verify_kept(options: PreferenceOptions, context: StageContext) -> Iterator[Proof]:
    """Load each kept checkpoint and compare its tensors with the final model's, one at a time."""
    for fraction in options.keep:
        name = fraction_name(fraction)
        folder = context.folder / CHECKPOINTS_FOLDER / name / MODEL_FOLDER
        claim = f"checkpoint {name} loads and is its own"
        try:
            finite = _finite(folder)
        except Exception as error:  # whatever transformers raises for a folder that is not whole
            yield Proof(claim=claim, holds=False, note=f"{folder.name} of '{name}': {type(error).__name__}: {error}")
            continue
        kept, final = _tensors(folder), _tensors(context.folder / MODEL_FOLDER)
        missing = sorted(kept.keys() ^ final.keys())
        equal = [tensor for tensor in kept.keys() & final.keys() if _equal(kept[tensor], final[tensor], tensor)]
        notes = []
        if not finite:
            notes.append("its logits are not finite")
        if missing:
            notes.append(f"{missing[0]} is in one of the two only")
        if len(equal) == len(kept):
            notes.append("it is the final model once more")
        yield Proof(
            claim=claim,
            holds=not notes,
            measured=f"{len(kept) - len(equal):,} of {len(kept):,} tensors differ from the final model's",
            bound="at least 1",
            note="; ".join(notes),
        )


@torch.no_grad()
def _finite(folder: Path) -> bool:
    """Whether the model that lies there answers something with numbers."""
    return bool(load_plain(folder)(input_ids=torch.tensor([[1, 2, 3, 4]])).logits.isfinite().all())


def _tensors(folder: Path) -> dict[str, Path]:
    return {name: path for path in folder.glob("*.safetensors") for name in safe_open(path, "pt").keys()}  # noqa: SIM118


def _equal(one: Path, other: Path, name: str) -> bool:
    return torch.equal(safe_open(one, "pt").get_tensor(name), safe_open(other, "pt").get_tensor(name))
