"""The recipe of the claims, with two seeds, few arms and few steps: from documents to verdicts."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]

SEEDS = (1, 2, 3, 4, 5)
KEPT = ("short", "full", "sft", "apo")
LEFT_OUT = ("rope", "long", "long-nope", "long-theta", "long-rope", "apo-beta", "dpo", "merge", "soup")


def recipe() -> str:
    """The shipped recipe without most of its arms, and with what remains cut short."""
    stages = ["  long-documents: null"]
    for seed in SEEDS:
        left_out = LEFT_OUT if seed < 3 else (*KEPT, *LEFT_OUT)
        stages += [f"  {arm}-{seed}: null" for arm in left_out]
    for seed in (1, 2):
        short = "{steps: 8, schedule: {warmup_steps: 2, decay_start: 6, decay_steps: 2}, held_out_rows: 8}"
        stages += [f"  {arm}-{seed}: {short}" for arm in ("short", "full")]
        stages += [f"  sft-{seed}: {{max_steps: 3, from: short-{seed}}}", f"  apo-{seed}: {{max_steps: 3}}"]
    judged = "\n".join(
        f"      {name}: {{says: it is so., measure: {measure}, expect: falls, "
        f"arms: {{a: [{a}-1, {a}-2], b: [{b}-1, {b}-2]}}}}"
        for name, measure, a, b in (
            ("loss", "held-out loss", "full", "short"),
            ("cache", "'KV cache, bytes per token'", "full", "short"),
            ("needles", "needles at 128", "short", "apo"),
            ("answers", "answers at 40", "sft", "apo"),
        )
    )
    return f"""\
extends: smollm3-claims
name: claims
stages:
{chr(10).join(stages)}
  evaluate-retrieval:
    models: [short-1, short-2, apo-1, apo-2]
    problems:
      extends: null
      needles at 128: {{use: needles, style: problems, split: held_out, length: 120, rows: 8}}
  evaluate-beyond: null
  evaluate-chat:
    models: [sft-1, sft-2, apo-1, apo-2]
    problems:
      extends: null
      answers at 40: {{use: needles, style: chat_problems, split: held_out, needles: 5, length: 40, rows: 8}}
  claims:
    scores: [evaluate-retrieval, evaluate-chat]
    claims:
      extends: null
{judged}
"""


@pytest.mark.pipeline
def test_the_claims_are_judged_from_documents_to_verdicts(
    write_recipe: Callable[..., Path], smolrecipe: Run, tmp_path: Path
) -> None:
    smolrecipe("run", write_recipe(recipe()), check=0)
    (artifact,) = (tmp_path / "runs" / "claims").glob("claims-*")
    claims = json.loads((artifact / "claims.json").read_text())
    assert claims["cache"]["verdict"] == "seen"
    # 2 x 2 layers x 4 or 1 heads x 16 x 2 bytes
    assert [arm["mean"] for arm in claims["cache"]["arms"].values()] == [512, 128]
    assert all(len(arm["models"]) == 2 for claim in claims.values() for arm in claim["arms"].values())
    assert "FAILS" not in smolrecipe("verify", artifact, check=0).stdout
