"""Model folders that do harm or are damaged: refused in a sentence, or brought in as what plain transformers loads."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostile_models import try_all
from transformers import AutoModelForCausalLM, AutoTokenizer

from smolrecipe import StageContext
from smolrecipe_pretrained import PretrainedModelOptions, missing, produces, run, verify

MUTANTS = (200, pytest.param(1500, marks=pytest.mark.chaos))


def consume(model: Path, work: Path) -> None:
    """Bring the folder in; what is accepted is what transformers loads, and what ``verify`` accepts."""
    options = PretrainedModelOptions(folder=model)
    context = StageContext(recipe="test", stage="base", folder=work)
    assert isinstance([*missing(options), produces(options)], list)
    run(options, context)
    artifact = work / "model"
    assert not [path for path in work.rglob("*") if path.is_symlink() or path.suffix in (".bin", ".pt", ".py")]
    assert all(proof.holds for proof in verify(options, context))
    AutoModelForCausalLM.from_pretrained(artifact, local_files_only=True, trust_remote_code=False)
    if (work / "tokenizer").exists():
        AutoTokenizer.from_pretrained(work / "tokenizer", local_files_only=True, trust_remote_code=False)("Hello")


@pytest.mark.parametrize("count", MUTANTS)
def test_hostile_folders_are_refused_or_brought_in_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    for module in ("smolrecipe.checkpoint", "smolrecipe_pretrained.bring_in"):
        monkeypatch.setattr(f"{module}.LONGEST_SECONDS", 4.0)
    found = try_all(tmp_path, 5, count, consume)
    assert sum(found.refused.values()) > count / 2, found
