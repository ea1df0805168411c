"""``synthesize`` cut short: no answer is asked for twice, and rows are those of a run in peace."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from synthesize_toys import (
    STAGE,
    Echo,
    EchoOptions,
    TroubleError,
    asked,
    context,
    made,
    pairs,
    problems,
    rows,
)

from smolrecipe import (
    Answer,
    Request,
    StageContext,
    StageError,
    Use,
)
from smolrecipe_synthesize.options import SynthesizeOptions


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The rows of a run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    STAGE.run(pairs(Echo(), Echo()), context(folder))
    return made(folder)


@pytest.mark.parametrize("ends_after", range(24))
def test_none_is_asked_twice_and_only_what_was_in_flight_again(
    tmp_path: Path, whole: list[dict[str, Any]], ends_after: int
) -> None:
    first = Echo(ends_after=ends_after)
    if ends_after < 23:
        with pytest.raises(TroubleError):
            STAGE.run(pairs(first, Echo()), context(tmp_path))
    kept = ends_after - ends_after % 4 if ends_after < 23 else 23
    lines = [line for file in (tmp_path / "answers").glob("teacher-*") for line in file.open()] if kept else []
    assert len(lines) == kept or ends_after == 23
    second, other = Echo(), Echo()
    STAGE.run(pairs(second, other), context(tmp_path))
    assert made(tmp_path) == whole
    assert sorted(asked(second)) == sorted(set(range(23)) - {json.loads(line)["row"] for line in lines})
    assert sorted(asked(other)) == list(range(23))
    third = Echo()
    STAGE.run(pairs(third, third), context(tmp_path))
    assert not third.asked and made(tmp_path) == whole


def test_what_a_kill_cuts_short_is_asked_again_at_every_byte(tmp_path: Path, whole: list[dict[str, Any]]) -> None:
    STAGE.run(pairs(Echo(), Echo()), context(tmp_path / "run"))
    file = tmp_path / "run" / "answers" / "teacher-00000.jsonl"
    content = file.read_bytes()
    lines = content.splitlines(keepends=True)
    closed = [index for index, line in enumerate(lines) if b'"followed"' not in line]
    for length in range(len(content) - sum(map(len, lines[-6:])), len(content), 7):
        file.write_bytes(content[:length])
        complete = sum(len(b"".join(lines[: index + 1])) <= length for index in range(len(lines)))
        kept = max((index + 1 for index in closed if index < complete), default=0)
        echo = Echo()
        STAGE.run(pairs(echo, Echo()), context(tmp_path / "run"))
        assert len(echo.asked) == 23 - kept, length
        assert made(tmp_path / "run") == whole


def test_damage_in_the_middle_is_told(tmp_path: Path) -> None:
    STAGE.run(pairs(Echo(), Echo()), context(tmp_path))
    file = tmp_path / "answers" / "teacher-00000.jsonl"
    content = file.read_bytes()
    file.write_bytes(content[:10] + b"\xff" + content[11:])
    with pytest.raises(StageError, match=r"teacher-00000.jsonl, byte 0 is damaged .* delete that file"):
        STAGE.run(pairs(Echo(), Echo()), context(tmp_path))


def test_shares_do_not_overlap_and_rows_are_those_of_one_process(tmp_path: Path, whole: list[dict[str, Any]]) -> None:
    echoes = [Echo() for _ in range(3)]
    for rank in (2, 1, 0):
        STAGE.run(pairs(echoes[rank], Echo()), context(tmp_path, rank, 3))
    assert [asked(echo) for echo in echoes] == [list(range(rank, 23, 3)) for rank in range(3)]
    assert made(tmp_path) == whole


def test_another_number_of_processes_goes_on_with_what_is_there(tmp_path: Path, whole: list[dict[str, Any]]) -> None:
    with pytest.raises(TroubleError):
        STAGE.run(pairs(Echo(ends_after=4), Echo()), context(tmp_path, 2, 3))
    STAGE.run(pairs(Echo(), Echo()), context(tmp_path, 1, 3))
    echo = Echo()
    STAGE.run(pairs(echo, Echo()), context(tmp_path))
    answered = {*range(1, 23, 3), *list(range(2, 23, 3))[:4]}
    assert sorted(asked(echo)) == sorted(set(range(23)) - answered)
    assert made(tmp_path) == whole


def test_a_generator_that_leaves_requests_out_or_makes_them_up_is_named(tmp_path: Path) -> None:
    def forgets(requests: Iterable[Request]) -> Iterator[Answer]:
        for request in requests:
            if request.number != 1:
                yield Answer(number=request.number, text="x")

    def repeats(requests: Iterable[Request]) -> Iterator[Answer]:
        for request in requests:
            yield Answer(number=request.number, text="x")
            yield Answer(number=request.number, text="y")

    for answering, message in ((forgets, "without an answer to 1 request"), (repeats, "was not asked, or twice")):

        @contextmanager
        def open_it(options: Any, context: StageContext, answering: Any = answering) -> Iterator[Any]:
            yield answering

        use = Use(evolve(Echo().use().component, open=open_it), EchoOptions())
        with pytest.raises(StageError, match=f"generator 'echo' .*{message}"):
            STAGE.run(
                SynthesizeOptions(prompts={"said": problems(3)}, teacher=use), context(tmp_path / answering.__name__)
            )


def test_progress_counts_what_is_left(tmp_path: Path) -> None:
    with pytest.raises(TroubleError):
        STAGE.run(pairs(Echo(ends_after=8), Echo()), context(tmp_path))
    said: list[Any] = []
    STAGE.run(pairs(Echo(), Echo()), context(tmp_path, said=said))
    assert {"message": "8 of 46 answers are there already: going on with the others"} in said
    told = [event for event in said if "step" in event]
    # After every batch: of four of the teacher's, of three of the other model's, the last ones smaller.
    assert [event["step"] for event in told] == [12, 16, 20, 23, *range(26, 47, 3), 46]
    assert all(event["steps"] == 46 and event["tokens_per_second"] > 0 for event in told)
    assert [event["checkpoint"] for event in said if "checkpoint" in event] == [event["step"] for event in told]


def test_progress_is_told_a_thousand_times_at_most(tmp_path: Path) -> None:
    said: list[Any] = []
    options = SynthesizeOptions(prompts={"said": problems(2500)}, teacher=Echo().use(together=7))
    STAGE.run(options, context(tmp_path, said=said))
    steps = [event["step"] for event in said if "step" in event]
    assert len(steps) <= 1000 and steps == sorted(set(steps)) and steps[-1] == 2500
    again: list[Any] = []
    STAGE.run(options, context(tmp_path / "again", said=again))
    assert steps == [event["step"] for event in again if "step" in event]


def test_text_that_no_encoding_has_is_kept(tmp_path: Path) -> None:
    odd = "half \ud83d, line\u2028 and \x00"
    prompts = rows({"messages": [{"role": "user", "content": odd}]}, yields="chat")
    STAGE.run(SynthesizeOptions(prompts={"odd": prompts}, teacher=Echo().use()), context(tmp_path))
    assert made(tmp_path)[0]["messages"][1]["content"] == odd


def test_of_two_answers_to_one_turn_the_first_counts(tmp_path: Path, whole: list[dict[str, Any]]) -> None:
    STAGE.run(pairs(Echo(), Echo()), context(tmp_path))
    first, second = tmp_path / "answers" / "teacher-00000.jsonl", tmp_path / "answers" / "teacher-00001.jsonl"
    second.write_text(first.read_text().replace('"text": "', '"text": "another '))
    said: list[Any] = []
    STAGE.run(pairs(Echo(), Echo()), context(tmp_path, said=said))
    assert made(tmp_path) == whole
    assert {"message": "46 of 46 answers are there already: going on with the others"} in said


def test_an_answer_is_on_the_disk_before_the_next_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file's size when it is brought to the disk, against its size when the next answers are asked for."""
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", lambda file: synced.append(os.fstat(file).st_size))
    echo = Echo()
    sizes: list[int] = []
    answers = echo.answers

    def looking(batch: list[Request], options: EchoOptions) -> Iterator[Answer]:
        file = tmp_path / "answers" / "teacher-00000.jsonl"
        sizes.append(file.stat().st_size)
        assert not sizes[-1] or sizes[-1] == synced[-1]
        yield from answers(batch, options)

    echo.answers = looking  # type: ignore[method-assign]
    STAGE.run(pairs(echo, Echo()), context(tmp_path))
    assert len({*sizes}) == 6
