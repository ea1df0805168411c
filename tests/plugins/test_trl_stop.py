"""Asked to stop: after the step, while rows are prepared, while it measures; and nothing is kept that is not finite."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
from trl_toys import (
    APO,
    CONSTANT,
    STEPS,
    Run,
    adamw,
    asking_to_stop,
    breaking,
    context,
    equal,
    preference_options,
    rows,
    run,
    sft_options,
    stopped_after,
    sums,
)

from smolrecipe import Loss, NoOptions, PreferenceBatch, PreferenceLoss, StageError, StageStopped, Use
from smolrecipe_trl import held_out, run_preference, run_sft
from smolrecipe_trl.finite import check_measured

pytest_plugins = ["trl_fixtures"]
pytestmark = pytest.mark.usefixtures("one_thread")


def stop_and_go_on(options: Any, folder: Path, base: Path, after: int) -> Run:
    """Stop a stage there, look at what it left, and run it to its end."""
    before = signal.getsignal(signal.SIGTERM)
    assert stopped_after(after, options, folder, base) == after
    assert signal.getsignal(signal.SIGTERM) is before  # what comes after the stage is ended by the signal again
    assert (folder / "trainer" / f"checkpoint-{after}" / "seal.json").exists()
    assert not (folder / "model").exists() and not (folder / "held_out.json").exists()
    resumed = run(options, folder, base)
    assert resumed.messages == [f"going on from checkpoint-{after}"]
    assert resumed.steps == [] or resumed.steps[0]["step"] == after + 1
    return resumed


@pytest.mark.parametrize("after", [4, 6, STEPS], ids=["between", "where it saves anyway", "the last step"])
def test_fine_tuning_stops_after_the_step_with_a_checkpoint(after: int, sft: Run, base: Path, tmp_path: Path) -> None:
    resumed = stop_and_go_on(sft_options(), tmp_path / "stage", base, after)
    assert equal(resumed.weights(), sft.weights())
    assert resumed.artifact.measures == sft.artifact.measures


def test_alignment_stops_after_the_step_with_a_checkpoint(aligned: Run, base: Path, tmp_path: Path) -> None:
    resumed = stop_and_go_on(preference_options(APO, keep=(0.5,)), tmp_path / "stage", base, 5)
    for path in ("model/model.safetensors", "checkpoints/0.5/model/model.safetensors"):
        assert equal(resumed.weights(path), aligned.weights(path))
    assert resumed.artifact.measures == aligned.artifact.measures


def test_it_says_what_it_has_saved(base: Path, tmp_path: Path) -> None:
    events: list[Mapping[str, Any]] = []
    ask = asking_to_stop(lambda event: event.get("step") == 3)

    def report(event: Mapping[str, Any]) -> None:
        events.append(event)
        ask(event)

    with pytest.raises(StageStopped, match="stopped after step 4"):
        run_sft(sft_options(), attrs.evolve(context(tmp_path, base), report=report))
    told = [next(iter(event.items())) for event in events if "step" in event or "checkpoint" in event]
    assert told == [("step", 1), ("step", 2), ("step", 3), ("checkpoint", 3), ("step", 4), ("checkpoint", 4)]


def test_it_stops_while_rows_are_prepared(base: Path, tmp_path: Path) -> None:
    def asking(start: int, end: int) -> Iterator[Any]:
        yield from sums(start, 10)
        os.kill(os.getpid(), signal.SIGTERM)
        while True:  # a source that would go on for days
            yield from sums(0, 10)

    with pytest.raises(StageStopped) as stopped:
        run_sft(sft_options(data={"sums": rows(asking, 0, 10**9)}), context(tmp_path, base))
    assert stopped.value.step == 0 and not (tmp_path / "rows").exists()


@pytest.mark.parametrize(("calls", "step"), [(1, 0), (2, STEPS)], ids=["before training", "after training"])
def test_it_stops_while_it_measures(
    calls: int, step: int, sft: Run, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    original = held_out.batches

    def asking(lengths: Any, most_tokens: int) -> Any:
        if len(lengths) > 1:  # not where one row is tried before a checkpoint
            asked.append(time.monotonic())
            if len(asked) == calls:
                os.kill(os.getpid(), signal.SIGTERM)
        return original(lengths, most_tokens)

    with monkeypatch.context() as patched, pytest.raises(StageStopped) as stopped:
        patched.setattr(held_out, "batches", asking)
        run_sft(sft_options(), context(tmp_path, base))
    assert stopped.value.step == step and len(asked) == calls and not (tmp_path / "model").exists()
    assert equal(run(sft_options(), tmp_path, base).weights(), sft.weights())


# Numbers that are not finite


def kept(folder: Path) -> list[str]:
    """What is kept in a stage's folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("seal.json") if path.parent.name != "rows")


@pytest.mark.parametrize(
    ("changes", "complaint", "left"),
    [
        ({"optimizer": breaking(6)}, r"the weights after step 6 of 12 make no finite loss \(its own was \d", [3]),
        ({"optimizer": breaking(4)}, r"the loss is nan in step 5 of 12 \(the loss was .* in the step before\)", [3]),
        (
            {"optimizer": breaking(1), "global_batch": 8, "micro_batch": 2, "checkpoint_every": 100},
            r"the loss is nan in step 2 of 12 \(the loss was .* in the step before\): lower the learning rate",
            [],
        ),
        ({"optimizer": breaking(5), "max_steps": 5}, r"the weights after step 5 of 5 make no finite loss", [3]),
        (
            {"optimizer": breaking(5), "max_steps": 5, "held_out": {}, "max_grad_norm": 0.0},
            r"the weights after step 5 of 5 make no finite loss",
            [3],
        ),
        (
            {"optimizer": adamw(1e25), "checkpoint_every": 1},
            r"the gradient norm is nan in step 2 of 12 \(the loss was .*, the gradient norm .* in the step before\)",
            [1],
        ),
    ],
    ids=["saved there", "between", "accumulated", "last step", "last step, nothing held out", "gradients"],
)
def test_nothing_that_is_not_finite_is_kept(
    changes: dict[str, Any], complaint: str, left: list[int], base: Path, tmp_path: Path
) -> None:
    with pytest.raises(StageError, match=complaint):
        run(sft_options(schedule=CONSTANT, **changes), tmp_path, base)
    assert kept(tmp_path) == [f"trainer/checkpoint-{step}/seal.json" for step in left]
    assert not (tmp_path / "model").exists()


def broken_from(call: int, value: float) -> Use[Loss]:
    """A preference loss that is not finite from one of its calls in training on."""
    calls: list[int] = []

    def loss(batch: PreferenceBatch, options: Any) -> PreferenceLoss:
        calls.append(1)
        chosen = batch.policy_chosen / batch.chosen_tokens
        return PreferenceLoss(losses=-chosen * (value if len(calls) >= call else 1.0))

    return Use(Loss(name="broken", summary="", loss=loss, needs_reference=False), NoOptions())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_to_publish_is_not_taken_of_a_step_that_is_not_finite(
    value: float, base: Path, tmp_path: Path
) -> None:
    """Two batches a step: the tenth call lies in step 5, of which 0.5 of the run is to be kept."""
    options = preference_options(broken_from(10, value), keep=(0.5,), held_out={}, checkpoint_every=2)
    with pytest.raises(StageError, match=r"the loss is (nan|inf|-inf) in step 5 of 10"):
        run(options, tmp_path, base)
    assert not (tmp_path / "checkpoints").exists()
    assert kept(tmp_path) == ["trainer/checkpoint-2/seal.json", "trainer/checkpoint-4/seal.json"]


def test_a_step_that_is_not_finite_is_not_saved_when_the_stage_is_stopped_there(base: Path, tmp_path: Path) -> None:
    options = preference_options(broken_from(10, float("nan")), held_out={}, checkpoint_every=100)
    where = attrs.evolve(context(tmp_path, base), report=asking_to_stop(lambda event: event.get("step") == 4))
    with pytest.raises(StageError, match="the loss is nan in step 5 of 10"):
        run_preference(options, where)
    assert kept(tmp_path) == []


def test_a_start_that_is_not_finite_is_said_before_training(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file
    from trl_toys import WEIGHTS, write_base

    write_base(tmp_path / "base" / "model")
    tensors = load_file(tmp_path / "base" / WEIGHTS)
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, tmp_path / "base" / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(StageError, match=r"before training, the model makes nan, .* of row 0 of those kept of 'held_"):
        run(sft_options(), tmp_path / "stage", tmp_path / "base")


def test_a_measure_that_is_not_finite_names_its_row() -> None:
    check_measured({"a": [[1.0, 2.0]], "b": [[1.0], [0.0]]}, "after step 3")
    with pytest.raises(StageError, match=r"after step 3, the model makes 1, inf of row 1 of those kept of "):
        check_measured({"a": [[1.0, 2.0]], "b": [[1.0, 0.0], [1.0, float("inf")]]}, "after step 3")
