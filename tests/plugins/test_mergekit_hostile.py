"""Merging model folders that do harm or are damaged: refused in a sentence, or merged into what transformers loads."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hostile_models import save_model, try_all
from mergekit.io.tasks import LoaderCache
from transformers import AutoModelForCausalLM

from smolrecipe import StageContext, StageError, StageRef
from smolrecipe_mergekit import run, verify
from smolrecipe_mergekit.options import MemberOptions, MergeOptions

MUTANTS = (57, pytest.param(1500, marks=pytest.mark.chaos))


def options(base: str) -> MergeOptions:
    members = [MemberOptions(from_=StageRef(name), weight=0.5) for name in ("good", "bad")]
    return MergeOptions(models=members, base=StageRef(base), out_dtype="float32")


def consume(model: Path, work: Path) -> None:
    """Merge the folder with a good one, which is the base by turns."""
    LoaderCache().loaders.clear()  # it remembers folders by name; a stage merges in a process of its own
    folder, good = work / "merge", model.parents[1] / "beside"
    folder.mkdir()
    if not good.exists():  # the first of all
        save_model(good / "model", seed=2)
    inputs = {"good": good, "bad": model.parent}
    context = StageContext(recipe="test", stage="merge", folder=folder, inputs=inputs)
    merge = options("good" if (model / "model.safetensors").exists() else "bad")
    run(merge, context)
    assert not [path for path in folder.rglob("*") if path.is_symlink() or path.suffix in (".bin", ".pt", ".py")]
    assert not [proof for proof in verify(merge, context) if not proof.holds]
    AutoModelForCausalLM.from_pretrained(folder / "model", local_files_only=True, trust_remote_code=False)


@pytest.mark.parametrize("count", MUTANTS)
def test_hostile_folders_are_refused_or_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    save_model(tmp_path / "beside" / "model", seed=2)
    for module in ("smolrecipe.checkpoint", "smolrecipe_mergekit.members"):
        monkeypatch.setattr(f"{module}.LONGEST_SECONDS", 4.0)
    found = try_all(tmp_path, 7, count, consume)
    assert sum(found.refused.values()) > count / 2, found


def test_a_pickle_in_safetensors_clothing_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mergekit unpickles whatever shard its index names, if that is called *.bin."""
    import json

    import torch

    monkeypatch.setattr(torch, "load", lambda *more, **named: pytest.fail("torch.load was called"))
    for name in ("good", "bad"):
        save_model(tmp_path / name / "model")
    bad = tmp_path / "bad" / "model"
    shutil.move(bad / "model.safetensors", bad / "pytorch_model.bin")
    where = {"metadata": {}, "weight_map": {"model.norm.weight": "pytorch_model.bin"}}
    (bad / "model.safetensors.index.json").write_text(json.dumps(where))
    inputs = {name: tmp_path / name for name in ("good", "bad")}
    context = StageContext(recipe="test", stage="merge", folder=tmp_path, inputs=inputs)
    with pytest.raises(StageError, match=r'names "pytorch_model\.bin", which is no safetensors file beside it'):
        run(options("good"), context)
