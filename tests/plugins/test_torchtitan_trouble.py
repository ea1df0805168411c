"""What goes wrong in a stage ends in a sentence, in all its processes and in time, and spoils no checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from titan_chaos import ONE, TWO, Happening, Seen, files_of

if TYPE_CHECKING:
    from titan_trainings import Trainings

pytest_plugins = ["titan_trainings"]
"""Where the fixtures come from; one server for all modules."""

TIMEOUT = 3
OVERHEAD = 4.0
"""Seconds that a process may take to start, to train a step or to end; on a busy machine."""


def impatient(**more: Any) -> dict[str, Any]:
    return {**TWO, "layout": {**TWO["layout"], "timeout_seconds": TIMEOUT}, **more}


def kept(trainings: Trainings, name: str) -> list[str]:
    return sorted(path.name for path in (trainings.folder / name / "checkpoints").glob("*"))


# --- numbers that are none --------------------------------------------------------------------------------------------


def test_weights_that_are_no_longer_finite_are_not_saved(trainings: Trainings) -> None:
    options = {**ONE["options"], "checkpoint_every": 1}
    (seen,) = trainings.train("nan-weights", options=options, breaks=float("nan"))
    assert "the weights are no longer finite after step 1; no checkpoint was kept from there on" in seen.outcome
    assert kept(trainings, "nan-weights") == []


@pytest.mark.parametrize("rank", [0, 1])
def test_a_loss_that_is_no_number_ends_all_processes(trainings: Trainings, rank: int) -> None:
    """One process breaks its part of the weights; the loss of all of them is gone."""
    name = f"nan-loss-{rank}"
    seen = trainings.train(name, Happening(what="nan", rank=rank, step=4), **TWO)
    for one in seen:
        assert one.outcome.startswith("the loss is nan in step 4; no checkpoint was kept from there on. Lower")
        assert one.seconds < seen[0].seconds + OVERHEAD
    assert seen[0].saved == [2]
    assert kept(trainings, name) == ["step-2"]


@pytest.mark.parametrize("asked", [ONE, TWO], ids=["one process", "two"])
def test_exploding_gradients_end_in_a_sentence(trainings: Trainings, asked: dict[str, Any]) -> None:
    name = f"exploded-{len(asked)}"
    explosion = [Happening(what="explosion", step=5, rank=rank) for rank in range(2)]
    seen = trainings.train(name, *explosion, **asked)
    for one in seen:
        assert one.outcome.startswith("the gradient norm is inf in step 5; no checkpoint was kept from there on. Lower")
    assert seen[0].saved == [2, 4]
    assert kept(trainings, name) == ["step-2", "step-4"]


def test_a_start_that_computes_no_numbers_is_refused(trainings: Trainings) -> None:
    (seen,) = trainings.train("nan-start", Happening(what="nan", held_out=1), **ONE)
    assert "the held-out loss is nan before the first step" in seen.outcome
    assert files_of(trainings.folder / "nan-start") == {}


# --- processes that fail or hang (those killed: test_torchtitan_killed.py) --------------------------------------------


def test_data_that_vanishes_from_one_process_ends_both(trainings: Trainings) -> None:
    seen = trainings.train("vanished", Happening(what="vanish", rank=1, step=4), **TWO)
    assert (seen[1].outcome, seen[1].causes) == ("crash", ["FileNotFoundError"])
    assert "another process of the stage ended, so that this one cannot go on, in step 4" in seen[0].outcome
    assert seen[0].seconds < seen[1].seconds + OVERHEAD


LONG = pytest.mark.chaos


@pytest.mark.parametrize(
    ("when", "seconds", "place"),
    [
        pytest.param({"step": 3}, TIMEOUT, "in step 3", id="training"),
        pytest.param({"step": 1}, 3 * TIMEOUT, "in step 1", id="first step", marks=LONG),
        pytest.param(
            {"event": "open", "path": "checkpoints/step-2/process-1.safetensors"},
            TIMEOUT,
            "in step ",
            id="saving beside training",
        ),
        pytest.param(
            {"event": "open", "path": "checkpoints/step-8/process-1.safetensors"},
            TIMEOUT,
            "in step 8",
            id="saving at the end",
        ),
        pytest.param({"held_out": 3}, TIMEOUT, "after step 8", id="measuring", marks=LONG),
    ],
)
def test_a_process_that_hangs_ends_the_others_in_time(
    trainings: Trainings, whole_two: list[Seen], when: dict[str, Any], seconds: int, place: str
) -> None:
    name = f"hung-{'-'.join(str(value).replace('/', '-') for value in when.values())}"
    seen = trainings.train(name, Happening(what="SIGSTOP", rank=1, **when), **impatient())
    assert f"another process of the stage did not answer within {seconds} seconds" in seen[0].outcome, seen[0].output
    assert "parallelism.timeout_seconds" in seen[0].outcome
    assert place in seen[0].outcome
    assert seconds <= seen[0].seconds < whole_two[0].seconds + seconds + OVERHEAD
    assert [one.outcome for one in trainings.train(name, **TWO)] == ["done", "done"]
    assert files_of(trainings.folder / name) == files_of(trainings.folder / "whole-two")


# --- disks without room -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "file"),
    [
        (4, "process-0.safetensors"),
        (4, ".checkpoint.json.new"),
        (8, "process-0.safetensors"),
        (8, ".checkpoint.json.new"),
    ],
)
def test_a_full_disk_costs_the_checkpoint_that_was_being_saved(
    trainings: Trainings, whole: Seen, step: int, file: str
) -> None:
    """Beside training (step 4) and at the end of it (step 8)."""
    name = f"full-{step}-{file}"
    full = Happening(what="full disk", step=step - 1, target=f"checkpoints/step-{step}/{file}")
    (seen,) = trainings.train(name, full, **ONE)
    assert f"the checkpoint of step {step} could not be saved: [Errno 28] No space left on device" in seen.outcome
    assert "OSError" in seen.causes
    assert seen.saved == [saved for saved in (2, 4, 6) if saved < step]
    assert f"step-{step}" not in kept(trainings, name)
    (resumed,) = trainings.train(name, **ONE)
    assert resumed.said[-1] == f"goes on after step {step - 2}, from its last whole checkpoint"
    assert files_of(trainings.folder / name) == files_of(trainings.folder / "whole")


@pytest.mark.parametrize("step", [4, 8])
def test_a_full_disk_of_one_process_ends_both_with_its_error(
    trainings: Trainings, whole_two: list[Seen], step: int
) -> None:
    name = f"full-two-{step}"
    full = Happening(what="full disk", rank=1, step=step - 1, target=f"checkpoints/step-{step}/process-1.safetensors")
    for one in trainings.train(name, full, **TWO):
        assert f"the checkpoint of step {step} could not be saved: [Errno 28] No space left on device" in one.outcome
        assert "OSError" in one.causes
    assert [one.outcome for one in trainings.train(name, **TWO)] == ["done", "done"]
    assert files_of(trainings.folder / name) == files_of(trainings.folder / "whole-two")
