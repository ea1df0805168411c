"""``synthesize``: prompts, answers that outlive interruptions, filters, rows, and the source that reads them."""

from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from synthesize_toys import (
    ROWS,
    STAGE,
    Echo,
    context,
    dropping,
    made,
    pairs,
    problems,
    rows,
)

from smolrecipe import (
    Candidate,
    Source,
    StageError,
    StageRef,
    Use,
)
from smolrecipe_synthesize import smolrecipe_sources
from smolrecipe_synthesize.options import SynthesizedOptions, SynthesizeOptions

(SOURCE,) = smolrecipe_sources()


def test_problems_become_chats(tmp_path: Path) -> None:
    echo = Echo()
    artifact = STAGE.run(
        SynthesizeOptions(prompts={"said": problems(3)}, teacher=echo.use(says=" ")), context(tmp_path)
    )
    assert made(tmp_path) == [
        {
            "messages": [
                {"role": "user", "content": f"say {number}"},
                {"role": "assistant", "content": f" {number}"},
            ],
            "chat_template_kwargs": {"enable_thinking": bool(number % 2)},
            "origin": {"source": "said", "row": number, "teacher": "echo "},
        }
        for number in range(3)
    ]
    assert artifact.summary == {
        "prompts": 3,
        "rows": 3,
        "sources": {"said": {"rows": 3}},
        "dropped": {},
        "answers": {
            "teacher": {
                "model": "echo ", "answers": 3, "tokens": 9, "prompt_tokens": 6, "cut_off": 0, "refused": 0,
            }
        },
    }  # fmt: skip
    assert [dict(request.arguments) for request in echo.asked] == [{"enable_thinking": bool(n % 2)} for n in range(3)]


def test_every_answer_has_a_seed_of_its_own(tmp_path: Path) -> None:
    seeds = []
    for seed in (0, 0, 1):
        teacher, other = Echo(), Echo()
        options = SynthesizeOptions(
            prompts={"said": problems(50)}, mode="pairs", teacher=teacher.use(), rejected=other.use(says="x"), seed=seed
        )
        STAGE.run(options, context(tmp_path / str(len(seeds))))
        seeds.append([request.seed for request in (*teacher.asked, *other.asked)])
    assert seeds[0] == seeds[1]
    assert len({*seeds[0], *seeds[2]}) == 200
    assert all(0 <= seed < 2**31 for found in seeds for seed in found)


def test_pairs_have_both_answers_and_those_alike_are_dropped(tmp_path: Path) -> None:
    options = SynthesizeOptions(
        prompts={"said": problems(4)}, mode="pairs", teacher=Echo().use(), rejected=Echo().use(errs=2)
    )
    said: list[Any] = []
    artifact = STAGE.run(options, context(tmp_path, said=said))
    assert [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in made(tmp_path)] == [
        ("0", "not 0"), ("2", "not 2"),
    ]  # fmt: skip
    assert made(tmp_path)[1] == {
        "prompt": [{"role": "user", "content": "say 2"}],
        "chosen": [{"role": "assistant", "content": "2"}],
        "rejected": [{"role": "assistant", "content": "not 2"}],
        "chat_template_kwargs": {"enable_thinking": False},
        "origin": {"source": "said", "row": 2, "teacher": "echo", "rejected": "echo"},
    }
    assert artifact.summary["dropped"] == {"rejected": {"the same answer as the teacher's": 2}}
    assert {"message": "rejected: 2 of 4 rows dropped (the same answer as the teacher's)"} in said


def test_filters_see_the_known_answer_and_count_what_they_drop_in_their_order(tmp_path: Path) -> None:
    seen: list[Candidate] = []

    def small(candidate: Candidate) -> str:
        return "" if int(candidate.known_answer or -1) < 6 else "too large"

    def even(candidate: Candidate) -> str:
        seen.append(candidate)
        return "" if candidate.known_answer == candidate.answers[0] and int(candidate.answers[0]) % 2 == 0 else "odd"

    options = SynthesizeOptions(
        prompts={"said": problems(9)},
        teacher=Echo().use(),
        filters={"small": dropping(small), "even": dropping(even)},
    )
    artifact = STAGE.run(options, context(tmp_path))
    assert [row["messages"][-1]["content"] for row in made(tmp_path)] == ["0", "2", "4"]
    assert artifact.summary["dropped"] == {"small": {"too large": 3}, "even": {"odd": 3}}
    del seen[0]  # the one that filters are tried with
    assert [candidate.answers for candidate in seen] == [(str(number),) for number in range(6)]
    assert seen[3] == Candidate(
        prompt=({"role": "user", "content": "say 3"},),
        answers=("3",),
        ends=("stop",),
        arguments={"enable_thinking": True},
        known_answer="3",
    )


def test_a_filter_that_cannot_judge_such_rows_is_told_before_any_model_is_asked(tmp_path: Path) -> None:
    def pairs_only(candidate: Candidate) -> str:
        if len(candidate.answers) < 2:
            raise StageError("it compares the two answers of a pair")
        return ""

    echo = Echo()
    options = SynthesizeOptions(
        prompts={"said": problems(2)}, teacher=echo.use(), filters={"apart": dropping(pairs_only)}
    )
    with pytest.raises(StageError, match=r"'filters.apart' cannot judge .* it compares the two answers of a pair"):
        STAGE.run(options, context(tmp_path))
    assert not echo.asked


def test_many_reasons_are_summed_up(tmp_path: Path) -> None:
    def judge(candidate: Candidate) -> str:
        return "" if candidate.answers[0] in ("0", "three") else f"because of {candidate.answers[0]}"

    options = SynthesizeOptions(
        prompts={"said": problems(31)}, teacher=Echo().use(), filters={"talkative": dropping(judge)}
    )
    artifact = STAGE.run(options, context(tmp_path))
    reasons = artifact.summary["dropped"]["talkative"]
    assert len(reasons) == 21 and reasons["for other reasons"] == 10 and sum(reasons.values()) == 30


def test_where_nothing_is_left_it_says_why(tmp_path: Path) -> None:
    options = SynthesizeOptions(
        prompts={"said": problems(2)}, teacher=Echo().use(), filters={"none": dropping(lambda candidate: "of no use")}
    )
    with pytest.raises(StageError, match=r"of 2 prompts no row is left: none: of no use \(2\)"):
        STAGE.run(options, context(tmp_path))


def test_refused_rows_are_dropped_with_their_reason(tmp_path: Path) -> None:
    echo = Echo(refuses=lambda request: "too long" if request.number == 1 else "")
    artifact = STAGE.run(SynthesizeOptions(prompts={"said": problems(3)}, teacher=echo.use()), context(tmp_path))
    assert [row["origin"]["row"] for row in made(tmp_path)] == [0, 2]
    assert artifact.summary["dropped"] == {"teacher": {"refused: too long": 1}}
    assert artifact.summary["answers"]["teacher"]["refused"] == 1


CHAT = [
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "an old answer"},
    {"role": "user", "content": "two"},
    {"role": "user", "content": "three"},
    {"role": "assistant", "content": "another"},
]


def test_the_last_turn_is_answered_on_top_of_the_conversation_as_it_is(tmp_path: Path) -> None:
    echo = Echo()
    options = SynthesizeOptions(
        prompts={"talk": rows({"messages": CHAT}, yields="chat")},
        teacher=echo.use(),
        system="Be short.",
        thinking="think",
    )
    STAGE.run(options, context(tmp_path))
    system = {"role": "system", "content": "Be short."}
    assert list(echo.asked[0].messages) == [system, *CHAT[:4]]
    assert made(tmp_path)[0]["messages"] == [system, *CHAT[:4], {"role": "assistant", "content": "three"}]
    assert made(tmp_path)[0]["chat_template_kwargs"] == {"enable_thinking": True}


def test_every_turn_is_answered_on_top_of_the_answers_before(tmp_path: Path) -> None:
    echo = Echo()
    seen: list[Candidate] = []
    options = SynthesizeOptions(
        prompts={"talk": rows({"messages": CHAT}, {"messages": CHAT[:1]}, yields="chat")},
        teacher=echo.use(says="new "),
        turns="every",
        filters={"see": dropping(lambda candidate: seen.append(candidate) or "")},
    )
    artifact = STAGE.run(options, context(tmp_path))
    first, second, third = CHAT[0], CHAT[2], CHAT[3]
    answers = [{"role": "assistant", "content": f"new {text}"} for text in ("one", "two", "three")]
    whole = [first, answers[0], second, answers[1], third, answers[2]]
    assert [list(request.messages) for request in echo.asked if request.number == 0] == [
        whole[:1],
        whole[:3],
        whole[:5],
    ]
    assert [row["messages"] for row in made(tmp_path)] == [whole, whole[:2]]
    assert seen[1].earlier_answers == ("new one", "new two") and list(seen[1].prompt) == whole[:5]
    assert artifact.summary["answers"]["teacher"]["answers"] == 4


def test_a_conversation_ends_where_a_turn_is_refused(tmp_path: Path) -> None:
    echo = Echo(refuses=lambda request: "no" if request.messages[-1]["content"] == "two" else "")
    prompts = rows({"messages": CHAT}, {"messages": CHAT[:1]}, yields="chat")
    options = SynthesizeOptions(prompts={"talk": prompts}, teacher=echo.use(), turns="every")
    artifact = STAGE.run(options, context(tmp_path))
    assert [request.messages[-1]["content"] for request in echo.asked if request.number == 0] == ["one", "two"]
    assert artifact.summary["dropped"] == {"teacher": {"refused: no": 1}} and artifact.summary["rows"] == 1
    again = Echo()
    STAGE.run(evolve(options, teacher=again.use()), context(tmp_path))
    assert not again.asked


@pytest.mark.parametrize(
    ("source", "prompt"),
    [
        (rows({"text": "hello"}, yields="text"), [{"role": "user", "content": "hello"}]),
        (
            rows(
                {
                    "prompt": [{"role": "user", "content": "hello"}],
                    "chosen": [{"role": "assistant", "content": "x"}],
                    "rejected": [{"role": "assistant", "content": "y"}],
                },
                yields="preference",
            ),
            [{"role": "user", "content": "hello"}],
        ),
        (
            rows({"prompt": "hello", "chosen": [], "rejected": []}, yields="preference"),
            [{"role": "user", "content": "hello"}],
        ),
    ],
    ids=["text", "preference", "a text as prompt"],
)
def test_prompts_come_in_any_shape(tmp_path: Path, source: Use[Source], prompt: list[Any]) -> None:
    STAGE.run(SynthesizeOptions(prompts={"any": source}, teacher=Echo().use()), context(tmp_path))
    assert made(tmp_path)[0]["messages"] == [*prompt, {"role": "assistant", "content": "hello"}]


def test_a_row_without_a_turn_of_the_user_is_counted(tmp_path: Path) -> None:
    prompts = rows({"messages": CHAT[1:2]}, {"messages": CHAT[:1]}, yields="chat")
    artifact = STAGE.run(SynthesizeOptions(prompts={"talk": prompts}, teacher=Echo().use()), context(tmp_path))
    assert artifact.summary["dropped"] == {"prompts": {"no turn of the user": 1}} and artifact.summary["rows"] == 1
    none = SynthesizeOptions(prompts={"talk": rows({"messages": CHAT[1:2]}, yields="chat")}, teacher=Echo().use())
    with pytest.raises(StageError, match=r"sources of 'prompts' \(talk\) have no turn of a user"):
        STAGE.run(none, context(tmp_path / "none"))


@pytest.mark.parametrize("row", [{"text": "x"}, {"messages": "x", "n": 1}, {"messages": [{"role": "user"}]}, {}])
def test_a_row_of_another_shape_is_told_with_its_number(tmp_path: Path, row: dict[str, Any]) -> None:
    prompts = rows({"messages": CHAT}, row, yields="chat")
    if row.get("messages") == "x":  # a text is taken for one message
        assert STAGE.run(SynthesizeOptions(prompts={"talk": prompts}, teacher=Echo().use()), context(tmp_path))
        return
    with pytest.raises(StageError, match="row 1 of source 'talk' has no list of messages"):
        STAGE.run(SynthesizeOptions(prompts={"talk": prompts}, teacher=Echo().use()), context(tmp_path))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The rows of a run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    STAGE.run(pairs(Echo(), Echo()), context(folder))
    return made(folder)


def test_the_source_reads_what_was_made(tmp_path: Path, whole: list[dict[str, Any]]) -> None:
    STAGE.run(pairs(Echo(), Echo()), context(tmp_path))
    ref = StageRef("made", root=tmp_path)
    options = SynthesizedOptions(from_=ref, yields="preference")
    assert SOURCE.yields(options) == "preference"
    assert list(SOURCE.read(options)) == whole
    assert list(SOURCE.read(evolve(options, rows=5))) == whole[:5]
    with pytest.raises(StageError, match="is no chat row: 'yields' of source 'synthesized' does not fit 'made'"):
        list(SOURCE.read(SynthesizedOptions(from_=ref)))
    with pytest.raises(StageError, match="is read in the stages that use it"):
        list(SOURCE.read(SynthesizedOptions(from_=StageRef("made"))))
    with pytest.raises(StageError, match="published no 'rows'"):
        list(SOURCE.read(SynthesizedOptions(from_=StageRef("made", root=tmp_path / "rows"))))


def test_rows_lie_in_several_files_where_they_are_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smolrecipe_synthesize.row_files.ROWS_IN_A_FILE", 10)
    STAGE.run(pairs(Echo(), Echo()), context(tmp_path))
    assert [len(file.read_text().splitlines()) for file in sorted((tmp_path / "rows").iterdir())] == [10, 10, 3]
    read = SOURCE.read(SynthesizedOptions(from_=StageRef("made", root=tmp_path), yields="preference"))
    assert [row["origin"]["row"] for row in read] == [*range(7), *range(16)]


def test_what_the_plan_is_told() -> None:
    echo = Echo()
    assert STAGE.workload is not None
    unknown = STAGE.workload(pairs(echo, echo), {}).generates
    assert unknown is not None and unknown.answers is None
    counted = Use(ROWS, type("Counted", (), {"rows": 10, "yields": "problem"})())
    options = evolve(pairs(echo, echo), prompts={"said": counted}, processes=2)
    found = STAGE.workload(options, {}).generates
    assert found is not None
    assert (found.answers, found.tokens) == (20, 20 * 2048)
    assert found.hours == pytest.approx(20 * 2048 / 3600 / 2) and found.cost == pytest.approx(20 * 2.048)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"rejected": None}, "takes a model whose answers are rejected"),
        ({"mode": "chat"}, "'rejected' is for mode: pairs"),
        ({"turns": "every"}, "a pair has one prompt"),
        ({"prompts": {}}, "'prompts' names no source"),
        ({"filters": {"teacher": dropping(lambda candidate: "")}}, "counted under that name already"),
    ],
)
def test_options_that_do_not_go_together_are_refused(changed: dict[str, Any], says: str) -> None:
    options = pairs(Echo(), Echo())
    assert list(STAGE.check(options)) == []
    (problem,) = STAGE.check(evolve(options, **changed))
    assert says in problem


def test_a_model_preferred_to_itself_is_refused() -> None:
    use = Echo().use()
    options = SynthesizeOptions(prompts={"said": problems(1)}, mode="pairs", teacher=use, rejected=use)
    (problem,) = STAGE.check(options)
    assert "all answers are the same" in problem
