"""Exporting model folders that do harm or are damaged: refused in a sentence, or exported as transformers loads it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hostile_models import try_all
from transformers import AutoModelForCausalLM, AutoTokenizer

from smolrecipe import StageContext, StageRef
from smolrecipe_export import ExportOptions, run, verify

MUTANTS = (76, pytest.param(1500, marks=pytest.mark.chaos))


def consume(model: Path, work: Path) -> None:
    """Export the folder as that of a stage, in one dtype or another; ``verify`` says all that it has to say."""
    folder = work / "export"
    folder.mkdir()
    context = StageContext(recipe="test", stage="export", folder=folder, inputs={"merge": model.parent})
    options = ExportOptions(
        from_=StageRef("merge"), dtype="keep" if (model / "model.safetensors").exists() else "bfloat16"
    )
    run(options, context)
    assert not [path for path in folder.rglob("*") if path.is_symlink() or path.suffix in (".bin", ".pt", ".py")]
    assert len(list(verify(options, context))) > 4
    AutoModelForCausalLM.from_pretrained(folder / "model", local_files_only=True, trust_remote_code=False)
    AutoTokenizer.from_pretrained(folder / "model", local_files_only=True, trust_remote_code=False)("Hello")


@pytest.mark.parametrize("count", MUTANTS)
def test_hostile_folders_are_refused_or_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    for module in ("smolrecipe.checkpoint", "smolrecipe_export.reload", "smolrecipe_export.chat_proofs"):
        monkeypatch.setattr(f"{module}.LONGEST_SECONDS", 4.0)
    found = try_all(tmp_path, 6, count, consume)
    assert sum(found.refused.values()) > count / 2, found


def test_verify_of_a_damaged_export_names_the_file(tmp_path: Path) -> None:
    """Proofs of a folder that nobody should load end in a sentence as well."""
    from hostile_models import save_model

    from smolrecipe import StageError

    good = save_model(tmp_path / "merge" / "model")
    context = StageContext(recipe="test", stage="export", folder=tmp_path, inputs={"merge": tmp_path / "merge"})
    shutil.copytree(good, tmp_path / "model")
    options = ExportOptions(from_=StageRef("merge"))
    (tmp_path / "model" / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(StageError, match=r"model\.safetensors is no whole safetensors file"):
        list(verify(options, context))
