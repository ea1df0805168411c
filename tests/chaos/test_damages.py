"""The long form of test_integrity: damages to everything that a whole run of the tiny recipe has published."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
from damages import KINDS, judge, planned_from, random_damages

from smolrecipe.verifying.integrity import files_as_published
from smolrecipe.verifying.targets import find_targets

DAMAGES = 1000


@pytest.mark.chaos
def test_every_damage_to_a_whole_run_is_found_by_verify_and_by_the_stage_that_would_use_it(
    tiny_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / tiny_run.name
    shutil.copytree(tiny_run, run)
    plan = planned_from(run)
    kinds: Counter[str] = Counter()
    stages: Counter[str] = Counter()
    for damage in random_damages(run, seed=2026, count=DAMAGES):
        verdict = judge(run, plan, damage, all_artifacts=False)
        assert verdict.by_verify and verdict.by_consumer and verdict.named, f"{damage}: {verdict}"
        kinds[damage.kind] += 1
        stages[damage.folder.name] += 1
    print(f"{DAMAGES} damages, {dict(kinds)}, of {dict(stages)}: all found")
    assert kinds == dict.fromkeys(KINDS, DAMAGES // len(KINDS))
    assert {*stages} == {target.folder.name for target in find_targets(run)}, "some artifact was not damaged"
    assert all(files_as_published(target.folder).holds for target in find_targets(run)), "a damage was not undone"
