"""Pretraining that is asked to stop saves the step that it is in, in all processes, and goes on from there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from titan_chaos import ONE, TWO, Happening, Seen, files_of
from titan_toys import BATCH

if TYPE_CHECKING:
    from titan_trainings import Trainings

pytest_plugins = ["titan_trainings"]
"""Where the fixtures come from; one server for all modules."""


def stop(**when: Any) -> Happening:
    return Happening(what="SIGTERM", **when)


@pytest.mark.parametrize(
    ("when", "step", "saved"),
    [
        ({"step": 7}, 7, [2, 4, 6, 7]),
        ({"step": 4}, 4, [2, 4]),  # which would have been saved anyway
        ({"step": 8}, 8, [2, 4, 6, 8]),
        ({"held_out": 1}, 0, []),
        ({"held_out": 3}, 8, [2, 4, 6, 8]),
    ],
    ids=["between checkpoints", "at one", "at the last", "while measuring before", "while measuring after"],
)
def test_one_process(trainings: Trainings, whole: Seen, when: dict[str, int], step: int, saved: list[int]) -> None:
    name = f"stopped-{'-'.join(f'{key}-{value}' for key, value in when.items())}"
    (seen,) = trainings.train(name, stop(**when), **ONE)
    assert (seen.outcome, seen.saved) == (f"stopped after step {step}", saved)
    assert seen.steps == list(range(1, step + 1))
    assert not (trainings.folder / name / "model").exists()
    (resumed,) = trainings.train(name, **ONE)
    assert resumed.steps == list(range(step + 1, 9))
    assert [sample for sample, _ in resumed.read] == list(range(step * BATCH, 8 * BATCH))
    assert resumed.measures == (whole.measures if not step else [whole.measures[0], whole.measures[1]])
    # What was saved on being asked is not published: the same checkpoints as without it.
    assert files_of(trainings.folder / name) == files_of(trainings.folder / "whole")


def test_what_was_saved_on_being_asked_is_not_published_even_if_a_kill_leaves_it(
    trainings: Trainings, whole: Seen
) -> None:
    trainings.train("left", stop(step=7), **ONE)
    death = Happening(what="SIGKILL", event="os.rename", path="checkpoints/.removed-step-7")
    (killed,) = trainings.train("left", death, **ONE)
    left = [path.name for path in (trainings.folder / "left" / "checkpoints").iterdir()]
    assert (killed.code, sorted(left)) == (-9, ["step-4", "step-6", "step-7", "step-8"])
    (seen,) = trainings.train("left", **ONE)
    assert (seen.outcome, seen.steps) == ("done", [])
    assert files_of(trainings.folder / "left") == files_of(trainings.folder / "whole")


def test_two_processes_stop_in_the_same_step_though_only_one_is_asked(
    trainings: Trainings, whole_two: list[Seen]
) -> None:
    seen = trainings.train("stopped-two", stop(rank=1, step=3), **TWO)
    assert [one.outcome for one in seen] == ["stopped after step 3"] * 2
    assert seen[0].saved == [2, 3]
    again = trainings.train("stopped-two", stop(rank=1, held_out=2), **TWO)
    assert [one.outcome for one in again] == ["stopped after step 8"] * 2
    assert again[0].said[-1] == "goes on after step 3, from its last whole checkpoint"
    assert again[0].saved == [3, 4, 6, 8]
    assert [one.outcome for one in trainings.train("stopped-two", **TWO)] == ["done", "done"]
    assert files_of(trainings.folder / "stopped-two") == files_of(trainings.folder / "whole-two")


def test_steps_are_the_stages_own_and_not_the_trajectorys(trainings: Trainings, whole: Seen) -> None:
    asked = {
        "options": {**ONE["options"], "from_": ["whole"], "carry": "everything", "steps": 5},
        "inputs": ["whole"],
    }
    (seen,) = trainings.train("second", stop(step=3), **asked)
    assert (seen.outcome, seen.saved) == ("stopped after step 3", [2, 3])
    (resumed,) = trainings.train("second", **asked)
    assert (resumed.outcome, resumed.steps, resumed.saved) == ("done", [4, 5], [3, 4, 5])
    assert sorted(path.name for path in (trainings.folder / "second" / "checkpoints").iterdir()) == [
        "step-12",
        "step-13",
    ]
