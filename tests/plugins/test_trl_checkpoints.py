"""What an interrupted stage goes on from: recognised where it is damaged, and what is done then."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import attrs
import pytest
from trl_toys import (
    APO,
    Run,
    equal,
    preference_options,
    rows,
    run,
    sft_options,
    stopped_after,
    sums,
)

from smolrecipe_trl.checkpoints import CourseSoFar, choose, finish, last_sealed_step, thin_out
from smolrecipe_trl.seals import SEAL, UNSEALED, damage, seal

pytest_plugins = ["trl_fixtures"]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def interrupted(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a stage that was stopped after step 8: checkpoints of 6 and 8."""
    folder = tmp_path_factory.mktemp("interrupted") / "stage"
    assert stopped_after(8, sft_options(), folder, base) == 8
    return folder


@pytest.fixture
def stage(interrupted: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(interrupted, tmp_path / "stage"))


# Seals


def sealed(folder: Path) -> Path:
    (folder / "inner").mkdir(parents=True)
    (folder / "one").write_bytes(b"one")
    (folder / "inner" / "two").write_bytes(b"two" * 1000)
    (folder / "empty").write_bytes(b"")
    seal(folder)
    return folder


def test_a_folder_is_what_was_sealed_or_it_is_said_what_is_not(tmp_path: Path) -> None:
    assert damage(tmp_path / "nowhere") == UNSEALED and damage(tmp_path) == UNSEALED
    assert damage(sealed(tmp_path / "whole")) is None
    more = sealed(tmp_path / "more")
    (more / "inner" / "three").touch()
    assert damage(more) == "is damaged (inner/three was not written with it)"
    fewer = sealed(tmp_path / "fewer")
    (fewer / "empty").unlink()
    assert damage(fewer) == "is damaged (empty is missing)"
    longer = sealed(tmp_path / "longer")
    (longer / "empty").write_bytes(b"x")
    assert damage(longer) == "is damaged (empty is not what was written)"
    for content in ("", "{", "[]", "null", '{"one": 1}', "[" * 100_000):
        odd = sealed(tmp_path / "odd")
        (odd / SEAL).write_text(content)
        assert damage(odd) is not None
        shutil.rmtree(odd)


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    drawn = random.Random(0)
    folder = sealed(tmp_path / "folder")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    for _ in range(60):
        path = drawn.choice(files)
        content = path.read_bytes()
        place = drawn.randrange(len(content))
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << drawn.randrange(8)]) + content[place + 1 :])
        assert damage(folder) is not None or path.name == SEAL  # a bit of white space in the seal may not matter
        path.write_bytes(content)
    assert damage(folder) is None


# Choosing


def checkpoints(folder: Path, *steps: int) -> None:
    for step in steps:
        path = folder / f"checkpoint-{step}"
        path.mkdir(parents=True)
        (path / "weights").write_bytes(b"w" * step)
        finish(path, CourseSoFar(step, "rows", {}))


def test_the_last_whole_checkpoint_is_gone_on_from(tmp_path: Path) -> None:
    checkpoints(tmp_path, 5, 10, 15, 20)
    (tmp_path / "checkpoint-20" / SEAL).unlink()
    (tmp_path / "checkpoint-15" / "weights").write_bytes(b"v" * 15)
    assert last_sealed_step(tmp_path) == 15
    said: list[str] = []
    assert choose(tmp_path, "rows", {}, said.append) == tmp_path / "checkpoint-10"
    assert said == [
        "checkpoint-20 was cut short and is not used",
        "checkpoint-15 is damaged (weights is not what was written) and is not used",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-5"]
    assert choose(tmp_path / "nowhere", "rows", {}, said.append) is None and len(said) == 2


def test_what_is_no_continuation_is_not_gone_on_from(tmp_path: Path) -> None:
    checkpoints(tmp_path, 5, 10)
    said: list[str] = []
    assert choose(tmp_path, "rows", {"0.5": 8}, said.append) == tmp_path / "checkpoint-5"
    assert said == ["checkpoint-10 comes after '0.5', which is made again, and is not used"]
    (tmp_path / "checkpoint-5").rename(tmp_path / "checkpoint-7")
    assert choose(tmp_path, "rows", {}, said.append) is None
    assert said[1:] == ["checkpoint-7 is that of step 5 and is not used", NONE_LEFT]
    checkpoints(tmp_path, 5)
    assert choose(tmp_path, "other rows", {}, said.append) is None
    assert said[3:] == ["checkpoint-5 was trained on other rows than there are now and is not used", NONE_LEFT]


NONE_LEFT = "no checkpoint is left: starting from the first step"


def test_a_deletion_that_was_cut_short_leaves_no_half_checkpoint(tmp_path: Path) -> None:
    checkpoints(tmp_path, 5, 10, 15)
    (tmp_path / "checkpoint-12").mkdir()  # killed while it was written, and then gone on from an earlier one
    for step in (3, 5):
        (tmp_path / f".removed-checkpoint-{step}").mkdir()
        (tmp_path / f".removed-checkpoint-{step}" / "weights").touch()
    thin_out(tmp_path)
    left = [".removed-checkpoint-3", "checkpoint-10", "checkpoint-15"]
    assert sorted(path.name for path in tmp_path.iterdir()) == left
    assert choose(tmp_path, "rows", {}, print) == tmp_path / "checkpoint-15"
    assert sorted(path.name for path in tmp_path.iterdir()) == left[1:]


# Stages


def flip(path: Path, place: float = 0.5) -> None:
    """Flip one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "scheduler.pt", "course.json"])
def test_a_flipped_bit_in_a_checkpoint_is_said_and_the_one_before_is_used(
    name: str, stage: Path, sft: Run, base: Path
) -> None:
    flip(stage / "trainer" / "checkpoint-8" / name)
    resumed = run(sft_options(), stage, base)
    assert resumed.messages == [
        f"checkpoint-8 is damaged ({name} is not what was written) and is not used",
        "going on from checkpoint-6",
    ]
    assert [event["checkpoint"] for event in resumed.events if "checkpoint" in event] == [6, 9, 12]
    assert equal(resumed.weights(), sft.weights())
    assert resumed.artifact.measures == sft.artifact.measures


def test_where_no_checkpoint_is_whole_it_starts_anew(stage: Path, sft: Run, base: Path) -> None:
    for step in (6, 8):
        flip(stage / "trainer" / f"checkpoint-{step}" / "model.safetensors")
    again = run(sft_options(), stage, base)
    assert again.messages[-1] == NONE_LEFT and again.steps[0]["step"] == 1
    assert equal(again.weights(), sft.weights())
    assert again.artifact.measures == sft.artifact.measures


@pytest.mark.parametrize("name", ["train.arrow", "held_out-0.arrow", "counts.json", "row_sample.parquet"])
def test_damaged_rows_are_prepared_again(name: str, stage: Path, sft: Run, base: Path) -> None:
    flip(stage / "rows" / name)
    resumed = run(sft_options(), stage, base)
    assert resumed.messages == [
        f"the rows that were prepared before: 'rows' is damaged ({name} is not what was written); they are prepared "
        "again",
        "going on from checkpoint-8",
    ]
    assert equal(resumed.weights(), sft.weights())
    assert resumed.artifact == attrs.evolve(sft.artifact, summary=resumed.artifact.summary)
    assert (stage / "row_sample.parquet").read_bytes() == (sft.folder / "row_sample.parquet").read_bytes()


def test_rows_that_read_otherwise_now_are_not_mixed_with_a_checkpoint_of_others(stage: Path, base: Path) -> None:
    """A source whose rows changed, and the prepared ones are lost: going on would repeat and skip rows."""
    flip(stage / "rows" / "train.arrow")
    others = {"data": {"sums": rows(sums, 1, 65)}}
    again = run(sft_options(**others), stage, base)
    assert "checkpoint-8 was trained on other rows than there are now and is not used" in again.messages
    assert again.steps[0]["step"] == 1


def test_a_damaged_checkpoint_to_publish_is_made_again(base: Path, tmp_path: Path, aligned: Run) -> None:
    options = preference_options(APO, keep=(0.5,), checkpoint_every=2)
    assert stopped_after(7, options, tmp_path / "stage", base) == 7
    kept = tmp_path / "stage" / "checkpoints" / "0.5" / "model"
    flip(kept / "model.safetensors")
    resumed = run(options, tmp_path / "stage", base)
    assert resumed.messages[0] == "checkpoint '0.5' is damaged (model.safetensors is not what was written)"
    assert resumed.messages[1] == "checkpoint-7 comes after '0.5', which is made again, and is not used"
    assert [event["step"] for event in resumed.steps] == list(range(resumed.steps[0]["step"], 11))
    assert resumed.steps[0]["step"] <= 5
    for path in ("model/model.safetensors", "checkpoints/0.5/model/model.safetensors"):
        assert equal(resumed.weights(path), aligned.weights(path))
    assert not [*kept.parent.glob("*.json")]  # the seal is not published


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Run:
    from trl_toys import aligned_model

    return aligned_model(tmp_path_factory)


def test_what_was_measured_before_goes_on_with_the_checkpoint(stage: Path, sft: Run, base: Path) -> None:
    course: dict[str, Any] = json.loads((stage / "trainer" / "checkpoint-8" / "course.json").read_text())
    assert course["step"] == 8 and len(course["before"]["sums"]) == 20
    assert run(sft_options(), stage, base).artifact.measures == sft.artifact.measures
