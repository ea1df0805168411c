"""Pretraining that is killed at any moment goes on to the same bits, and with another number of processes on the same
tokens."""

from __future__ import annotations

import random
import re
import signal
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from titan_chaos import ONE, TWO, Happening, Seen, files_of
from titan_toys import BATCH, LENGTH, Rows

if TYPE_CHECKING:
    from titan_trainings import Trainings

pytest_plugins = ["titan_trainings"]
"""Where the fixtures come from; one server for all modules."""


def windows(events: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    """The moments to kill a process at: all different writes, the last of those alike."""
    return list({(event, re.sub(r"step-\d+", "step", path)): (event, path) for event, path in events}.values())


def check_moment(trainings: Trainings, event: str, path: str, name: str) -> None:
    (killed,) = trainings.train(name, Happening(what="SIGKILL", event=event, path=path), **ONE)
    assert killed.code == -signal.SIGKILL, (event, path)
    (resumed,) = trainings.train(name, **ONE)
    assert resumed.outcome == "done", (event, path, resumed.output)
    check_stream([[resumed]])
    assert files_of(trainings.folder / name) == files_of(trainings.folder / "whole"), (event, path)


def test_what_nothing_happens_to_saves_and_publishes_as_it_says(trainings: Trainings, whole: Seen) -> None:
    assert whole.saved == [2, 4, 6, 8]
    assert whole.steps == [1, 2, 3, 4, 5, 6, 7, 8]
    assert sorted(files_of(trainings.folder / "whole")) == [
        *(
            f"checkpoints/step-{step}/{file}"
            for step in (6, 8)
            for file in ("checkpoint.json", "process-0.safetensors")
        ),
        "held_out.json",
        "model/config.json",
        "model/generation_config.json",
        "model/model.safetensors",
        "model/tokenizer.json",
        "model/tokenizer_config.json",
        "row_sample.parquet",
    ]


def test_killed_at_any_write_and_resumed_it_is_bitwise_the_same(trainings: Trainings, whole: Seen) -> None:
    moments = windows(whole.events)
    print(len(moments), moments)
    kinds = {event for event, _ in moments}
    assert kinds == {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}
    for number, (event, path) in enumerate(moments):
        check_moment(trainings, event, path, f"killed-{number}")


@pytest.mark.chaos
def test_killed_at_every_write_and_resumed_it_is_bitwise_the_same(trainings: Trainings, whole: Seen) -> None:
    moments = list(dict.fromkeys((event, path) for event, path in whole.events))
    print(len(moments))
    for number, (event, path) in enumerate(moments):
        check_moment(trainings, event, path, f"every-{number}")


@pytest.mark.chaos
@pytest.mark.parametrize("asked", [ONE, TWO], ids=["one process", "two"])
def test_killed_again_and_again_at_random_it_is_bitwise_the_same(
    trainings: Trainings, whole: Seen, whole_two: list[Seen], asked: dict[str, Any]
) -> None:
    """Up to three kills of a stage, in any of its processes, before it may end."""
    chance, kills = random.Random(0), 0
    world, longest = (2, whole_two[0].seconds) if asked is TWO else (1, whole.seconds)
    for number in range(20):
        name, attempts = f"random-{world}-{number}", []
        for _ in range(3):
            death = Happening(what="", rank=chance.randrange(world), seconds=chance.uniform(0.2, longest))
            attempts.append(trainings.train(name, death, **asked))
            kills += any(seen.code == -signal.SIGALRM for seen in attempts[-1])
        attempts.append(trainings.train(name, **asked))
        assert {seen.outcome for seen in attempts[-1]} == {"done"}, attempts[-1][0].output
        check_stream(attempts)
        same = files_of(trainings.folder / ("whole-two" if asked is TWO else "whole"))
        assert files_of(trainings.folder / name) == same, number
    print(kills)
    assert kills > 20


# --- several processes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "death",
    [
        Happening(what="SIGKILL", rank=1, event="open", path="checkpoints/step-4/process-1.safetensors"),
        Happening(what="SIGKILL", rank=0, event="os.rename", path="checkpoints/step-6/checkpoint.json"),
        Happening(what="SIGKILL", rank=0, event="shutil.rmtree", path="checkpoints/.removed-step-2"),
        Happening(what="SIGKILL", rank=1, step=7),
        Happening(what="SIGKILL", rank=1, held_out=2),
    ],
    ids=lambda death: f"{death.rank}-{death.event or 'step'}-{Path(death.path).name or death.step}",
)
def test_one_of_two_is_killed(trainings: Trainings, whole_two: list[Seen], death: Happening) -> None:
    """The other ends by itself, and both go on to the same bits."""
    name = f"two-{death.rank}-{death.event}-{death.path.replace('/', '-')}-{death.step}"
    seen = trainings.train(name, death, **TWO)
    assert seen[death.rank].code == -signal.SIGKILL
    other = seen[1 - death.rank]
    assert other.code == 1
    assert "another process of the stage ended" in other.outcome, other.output
    assert other.seconds < seen[death.rank].seconds + 3
    again = trainings.train(name, **TWO)
    assert [one.outcome for one in again] == ["done", "done"], again[0].output
    check_stream([seen, again])
    assert files_of(trainings.folder / name) == files_of(trainings.folder / "whole-two")


def test_tokens_do_not_depend_on_how_many_processes_go_on(trainings: Trainings, whole: Seen) -> None:
    """From two to one to two and to one again: nothing read twice or left out but what was never saved."""
    attempts = [
        trainings.train("degrees", Happening(what="SIGKILL", rank=1, step=4, after=whole_checkpoint(2)), **TWO),
        trainings.train("degrees", Happening(what="SIGKILL", step=6, after=whole_checkpoint(4)), **ONE),
        trainings.train("degrees", Happening(what="SIGTERM", rank=1, step=7), **TWO),
        trainings.train("degrees", **ONE),
    ]
    assert [begin(seen[0]) for seen in attempts] == [0, 2, 4, 7]
    check_stream(attempts)
    last = attempts[-1][0]
    assert last.outcome == "done"
    assert last.measures == pytest.approx(whole.measures, abs=1e-4)
    read = [[(int(sample), int(check)) for sample, check in seen.read] for seen in (whole, last)]
    assert read[1] == read[0][7 * BATCH :]


def whole_checkpoint(step: int) -> str:
    """The file that is written last."""
    return f"checkpoints/step-{step}/checkpoint.json"


def begin(seen: Seen) -> int:
    """After which step a process of rank 0 went on."""
    found = [re.match(r"goes on after step (\d+)", sentence) for sentence in seen.said]
    return next((int(match[1]) for match in found if match), min([step - 1 for step in seen.steps], default=0))


def check_stream(attempts: Sequence[Sequence[Seen]]) -> None:
    """Each attempt read on where what it went on from had stopped: the very samples, whole global batches of them."""
    rows = Rows(LENGTH, 3, 0)
    for seen in attempts:
        first, share = begin(seen[0]), BATCH // len(seen)
        for step in range(min(len(one.read) for one in seen) // share):
            read = sorted(tuple(pair) for one in seen for pair in one.read[step * share : (step + 1) * share])
            wanted = range((first + step) * BATCH, (first + step + 1) * BATCH)
            assert [sample for sample, _ in read] == list(wanted)
            assert all(check == zlib.crc32(rows._row(0, sample).tokens.tobytes()) for sample, check in read)
