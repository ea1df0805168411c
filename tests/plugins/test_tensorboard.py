"""What TensorBoard reads back of a stage: its steps, once each, its sentences, and what a full disk costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from smolrecipe import StageContext
from smolrecipe_tensorboard import TensorBoardOptions, smolrecipe_trackers
from smolrecipe_tensorboard.events import FOLDER, EventLog


def opened(folder: Path, said: list[Any] | None = None, **options: Any) -> Any:
    context = StageContext(recipe="r", stage="s", folder=folder, report=(said if said is not None else []).append)
    (tracker,) = smolrecipe_trackers()
    return tracker.open(TensorBoardOptions(**options), context)


def read(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder / FOLDER))
    found.Reload()
    return found


def step(number: int, **numbers: float) -> Mapping[str, Any]:
    return {"step": number, "steps": 10, "time": 1.0, **numbers}


def test_steps_are_scalars_under_their_names(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log(step(1, loss=2.5, lr=1e-3))
    log(step(2, loss=math.nan, huge=10**400))
    log({**step(3), "note": "text", "flag": True})
    found = read(tmp_path)
    assert set(found.Tags()["scalars"]) == {"loss", "lr", "huge"}
    first, second = found.Scalars("loss")
    assert (first.step, first.value) == (1, 2.5)
    assert math.isnan(second.value) and math.isinf(found.Scalars("huge")[0].value)


def test_a_stage_that_goes_on_tells_no_step_twice(tmp_path: Path) -> None:
    log = opened(tmp_path)
    for number in range(1, 6):
        log(step(number, loss=float(number)))
    again = opened(tmp_path)
    again({"message": "goes on after step 3"})
    for number in range(4, 8):
        again(step(number, loss=10.0 + number))
    found = [(event.step, event.value) for event in read(tmp_path).Scalars("loss")]
    assert found == [(1, 1), (2, 2), (3, 3), (4, 14), (5, 15), (6, 16), (7, 17)]


@pytest.mark.parametrize("messages", [True, False])
def test_sentences_are_preformatted_text(tmp_path: Path, messages: bool) -> None:
    log = opened(tmp_path, messages=messages)
    log({"message": "<b>one</b>\ntwo"})
    log(step(1, loss=1.0))
    found = read(tmp_path)
    assert ("messages/text_summary" in found.Tags()["tensors"]) == messages
    if messages:
        (event,) = found.Tensors("messages/text_summary")
        assert event.tensor_proto.string_val[0] == b"    <b>one</b>\n    two"


def test_a_disk_without_room_costs_the_log_and_not_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Any] = []
    log = opened(tmp_path, said)

    def full(self: EventLog, event: Mapping[str, Any]) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(EventLog, "_write", full)
    log(step(1, loss=1.0))
    log(step(2, loss=1.0))
    assert [event["message"] for event in said] == [
        "tensorboard is told no more: [Errno 28] No space left on device; all metrics are in metrics.jsonl"
    ]
