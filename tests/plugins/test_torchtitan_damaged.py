"""Damaged checkpoints: a stage falls back to the one before, and says so; a later stage refuses them by name."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from titan_chaos import ONE, TWO, Happening, Seen, files_of, flip_bit

if TYPE_CHECKING:
    from titan_trainings import Trainings

pytest_plugins = ["titan_trainings"]
"""Where the fixtures come from; one server for all modules."""


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def add(path: Path) -> None:
    path.with_name("notes.txt").write_text("mine")


AFTER_TWO_CHECKPOINTS = Happening(what="SIGKILL", step=6, after="checkpoints/step-4/checkpoint.json")


@pytest.fixture(scope="module")
def cut_short(trainings: Trainings, whole: Seen) -> str:
    """The name of a stage that was killed when it had two whole checkpoints."""
    (seen,) = trainings.train("cut-short", AFTER_TWO_CHECKPOINTS, **ONE)
    assert seen.code == -signal.SIGKILL
    return "cut-short"


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        ("process-0.safetensors", flip_bit, "is damaged: 'process-0.safetensors' is not what was written"),
        ("process-0.safetensors", cut, "is damaged: 'process-0.safetensors' is not what was written"),
        ("process-0.safetensors", Path.unlink, "is damaged: 'process-0.safetensors' is missing"),
        ("process-0.safetensors", add, "is damaged: 'notes.txt' was not written with it"),
        ("checkpoint.json", flip_bit, "is damaged: 'checkpoint.json' is not what was written"),
        ("checkpoint.json", cut, "is damaged: 'checkpoint.json' is not what was written"),
        ("checkpoint.json", Path.unlink, "was not finished, or 'checkpoint.json' is missing"),
    ],
)
def test_a_stage_falls_back_to_the_checkpoint_before(
    trainings: Trainings, cut_short: str, file: str, damage: Callable[[Path], None], words: str
) -> None:
    name = f"fell-back-{damage.__name__}-{file}"
    trainings.copy(cut_short, name)
    damage(trainings.folder / name / "checkpoints" / "step-4" / file)
    (seen,) = trainings.train(name, **ONE)
    assert any(sentence.startswith(f"the checkpoint of step 4 is not used: it {words}") for sentence in seen.said)
    assert seen.said[-1] == "goes on after step 2, from its last whole checkpoint"
    assert seen.saved == [2, 4, 6, 8]
    assert files_of(trainings.folder / name) == files_of(trainings.folder / "whole")


def test_without_any_whole_checkpoint_it_starts_anew(trainings: Trainings, cut_short: str) -> None:
    trainings.copy(cut_short, "all-damaged")
    for step in (2, 4):
        flip_bit(trainings.folder / "all-damaged" / "checkpoints" / f"step-{step}" / "process-0.safetensors")
    (seen,) = trainings.train("all-damaged", **ONE)
    assert sum("is not used" in sentence for sentence in seen.said) == 2
    assert (seen.steps[0], seen.saved) == (1, [2, 4, 6, 8])
    assert files_of(trainings.folder / "all-damaged") == files_of(trainings.folder / "whole")


def test_what_one_process_finds_all_heed(trainings: Trainings, whole_two: list[Seen]) -> None:
    """The second of two looks at the second file."""
    trainings.train("two-damaged", AFTER_TWO_CHECKPOINTS, **TWO)
    flip_bit(trainings.folder / "two-damaged" / "checkpoints" / "step-4" / "process-1.safetensors")
    seen = trainings.train("two-damaged", **TWO)
    assert [one.outcome for one in seen] == ["done", "done"]
    assert "'process-1.safetensors' is not what was written" in seen[0].said[1]
    assert seen[0].steps[0] == 3
    assert files_of(trainings.folder / "two-damaged") == files_of(trainings.folder / "whole-two")


def test_a_running_stage_keeps_two_whole_checkpoints(trainings: Trainings, whole: Seen) -> None:
    """Though it publishes one, and is killed while it writes the next."""
    options = {**ONE["options"], "keep_checkpoints": 1}
    death = Happening(what="SIGKILL", event="os.rename", path="checkpoints/step-6/checkpoint.json")
    trainings.train("keeps-two", death, options=options)
    folder = trainings.folder / "keeps-two" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["step-2", "step-4", "step-6"]
    flip_bit(folder / "step-4" / "process-0.safetensors")
    (seen,) = trainings.train("keeps-two", options=options)
    assert seen.said[-1] == "goes on after step 2, from its last whole checkpoint"
    assert [path.name for path in folder.iterdir()] == ["step-8"]


def test_no_damaged_checkpoint_is_published(trainings: Trainings, whole: Seen) -> None:
    """Of several to publish an earlier one is damaged when training is over: it is made again, from the one before."""
    written = {"target": "checkpoints/step-6/process-0.safetensors", "after": "checkpoints/step-6/checkpoint.json"}
    damage = Happening(what="flip", step=8, **written)
    (seen,) = trainings.train("spoiled", damage, **ONE)
    assert seen.outcome == (
        "the checkpoint of step 6 is damaged ('process-0.safetensors' is not what was written): it is deleted with "
        "those after it, and made again when the stage runs again"
    )
    (again,) = trainings.train("spoiled", **ONE)
    assert again.outcome == "done"
    assert files_of(trainings.folder / "spoiled") == files_of(trainings.folder / "whole")


@pytest.mark.parametrize("carry", ["weights", "everything"])
@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        ("process-0.safetensors", flip_bit, "'process-0.safetensors' is not what was written"),
        ("process-0.safetensors", Path.unlink, "'process-0.safetensors' is missing"),
        ("process-0.safetensors", add, "'notes.txt' was not written with it"),
        ("checkpoint.json", cut, "'checkpoint.json' is not what was written"),
        ("checkpoint.json", Path.unlink, "'checkpoint.json' is missing"),
    ],
)
def test_a_later_stage_refuses_what_is_damaged_and_names_it(
    trainings: Trainings, whole: Seen, carry: str, file: str, damage: Callable[[Path], None], words: str
) -> None:
    """Not the checkpoint before it, nor the exported model: those would be another start than the recipe's."""
    name = f"published-{carry}-{damage.__name__}-{file}"
    trainings.copy("whole", name)
    damage(trainings.folder / name / "checkpoints" / "step-8" / file)
    options = {**ONE["options"], "from_": [name], "carry": carry, "steps": 1}
    (seen,) = trainings.train(f"after-{name}", options=options, inputs=[name])
    assert seen.outcome.startswith(f"the checkpoint 'step-8' that stage '{name}' published is damaged: {words}")
    assert seen.outcome.endswith(f"Delete {trainings.folder / name} and run again: that makes the stage anew")
    assert seen.steps == []
