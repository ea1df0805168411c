"""What a filter must hold: a verdict on any row, in few words, that follows from the rows alone.

The kit has it judge rows of one answer and pairs, each kind by a judge of its own, as a stage does. A filter that one
kind means nothing to says so in a ``StageError``; one that asks for a network and says in a ``StageError`` that it
cannot do without cannot be tried here, and is skipped.
"""

from __future__ import annotations

import copy
import random
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from attrs import frozen

from smolrecipe.components import RowFilter
from smolrecipe.errors import StageError
from smolrecipe.generation import Candidate
from smolrecipe.stage import StageContext
from smolrecipe.testing.attempts import after, make, only_where, options_kept, without_network
from smolrecipe.testing.contract import Check, broken

Judge = Callable[[Candidate], Any]

KINDS_OF_ROWS = {1: "rows of one answer", 2: "pairs"}

MOST_REASONS = 12
"""How many different reasons a filter may have for all rows of a kind."""

LONGEST_REASON = 120
"""In characters."""

FRESH = "b"
"""The series of rows that one check has for itself."""

OPENS, JUDGES, AGAIN = (
    "it opens to a judge",
    "it has a verdict on any row",
    "the same rows get the same verdicts again",
)


@frozen
class _Refusal:
    """What a ``StageError`` said in place of a verdict."""

    message: str


def checks(component: RowFilter, options: Any) -> Iterator[Check]:
    """The checks of a filter with the options of its example."""
    for name, check in (
        (OPENS, _check_opens),
        (JUDGES, _check_judges),
        ("its reasons are few and short", _check_reasons),
        ("it leaves rows as they are", _check_rows),
        (AGAIN, _check_again),
        ("two judges know nothing of each other", _check_apart),
    ):
        yield Check(name=name, run=partial(make, check, component, options))


def _called(component: RowFilter) -> str:
    return f"filter '{component.name}'"


@contextmanager
def _stage(component: RowFilter, options: Any) -> Iterator[Callable[[], Judge]]:
    """A function that opens the filter, in a stage's folder, without a network, and with any seed of ``random``."""
    missing = "; ".join(component.missing(options))
    only_where(not missing, f"what the example of {_called(component)} points at is not on this machine: {missing}")
    state, refused = random.getstate(), ""
    with tempfile.TemporaryDirectory() as folder, without_network() as tried:
        context = StageContext(recipe="conformance", stage="generate", folder=Path(folder))

        def open_filter() -> Judge:
            what = f"open of {_called(component)}"
            judge = options_kept(what, options, lambda: component.open(options, context))
            if not callable(judge):
                broken(f"{what} returns {judge!r}: return a function that takes a candidate and returns a verdict")

            def verdict(candidate: Candidate) -> Any:
                try:
                    return judge(candidate)
                except StageError as error:
                    if tried:
                        raise
                    return _Refusal(str(error))

            return verdict

        try:
            yield open_filter
        except AssertionError as error:
            if not (tried and isinstance(error.__cause__, StageError)):
                raise
            refused = str(error)
        finally:
            random.setstate(state)
        only_where(not (tried and refused), f"{_called(component)} cannot be tried without a network: {refused}")


def _verdict(component: RowFilter, options: Any, judge: Judge, candidate: Candidate) -> Any:
    what = f"{_called(component)}, judging {_short(candidate)},"
    return options_kept(what, options, lambda: judge(candidate))


def _verdicts(component: RowFilter, options: Any, judge: Judge, rows: Sequence[Candidate]) -> list[Any]:
    return [_verdict(component, options, judge, candidate) for candidate in rows]


def _short(candidate: Candidate) -> str:
    text = f"answers {candidate.answers!r} to {candidate.prompt[-1]['content']!r}"
    return text if len(text) <= 200 else f"{text[:197]}..."


def _check_opens(component: RowFilter, options: Any) -> None:
    with _stage(component, options) as open_filter:
        open_filter()


def _check_judges(component: RowFilter, options: Any) -> None:
    """Whatever is in a row: a text, or a sentence for people where rows of that kind mean nothing to the filter."""
    after(OPENS, _check_opens, component, options)
    refused = []
    with _stage(component, options) as open_filter:
        for answers, kind in KINDS_OF_ROWS.items():
            rows = candidates(answers)
            verdicts = _verdicts(component, options, open_filter(), rows)
            for candidate, verdict in zip(rows, verdicts, strict=True):
                if not isinstance(verdict, (str, _Refusal)):
                    broken(
                        f"{_called(component)}, judging {_short(candidate)}, returns {verdict!r}: return '' for a row "
                        "to keep, else why it is dropped"
                    )
            if refusals := [verdict for verdict in verdicts if isinstance(verdict, _Refusal)]:
                refused.append((f"{kind}: {refusals[0].message}", len(refusals) == len(rows)))
    if len(refused) == len(KINDS_OF_ROWS) and all(every for _, every in refused):
        said = "; ".join(message for message, _ in refused)
        broken(f"{_called(component)} judges no row, neither of one answer nor of two ({said})")


def _check_reasons(component: RowFilter, options: Any) -> None:
    """Rows are counted by the reason: it names no content of a row."""
    after(JUDGES, _check_judges, component, options)
    with _stage(component, options) as open_filter:
        for answers, kind in KINDS_OF_ROWS.items():
            reasons: dict[str, None] = {}
            verdicts = _verdicts(component, options, open_filter(), candidates(answers))
            for verdict in verdicts:
                if isinstance(verdict, str) and verdict:
                    _require_reason(component, verdict)
                    reasons[verdict] = None
            if len(reasons) > MOST_REASONS:
                some = ", ".join(map(repr, list(reasons)[:4]))
                broken(
                    f"{_called(component)} has {len(reasons)} different reasons for {kind}, such as {some}: rows are "
                    f"counted by them, so give at most {MOST_REASONS}, without what is in a row or how long it is"
                )


def _require_reason(component: RowFilter, reason: str) -> None:
    what = f"{_called(component)} drops a row because of {reason[:200]!r}"
    if len(reason.splitlines()) != 1 or reason != reason.strip():
        broken(f"{what}: give one line, without white space around it")
    if len(reason) > LONGEST_REASON:
        broken(f"{what}, {len(reason)} characters: say it in {LONGEST_REASON} at most, as a few words that are counted")
    if _ANY_MARK.search(reason):
        broken(f"{what}, which repeats what is in a row: rows are counted by their reason, so say the same of all")


def _check_rows(component: RowFilter, options: Any) -> None:
    after(JUDGES, _check_judges, component, options)
    with _stage(component, options) as open_filter:
        for answers in KINDS_OF_ROWS:
            rows = candidates(answers)
            kept = copy.deepcopy(rows)
            _verdicts(component, options, open_filter(), rows)
            for before, now in zip(kept, rows, strict=True):
                if before != now:
                    broken(
                        f"{_called(component)} changes a row: it was {_short(before)} with the arguments "
                        f"{before.arguments!r}, and is {_short(now)} with {now.arguments!r}. Other filters judge the "
                        "same one, and it is written down, so make a copy"
                    )


def _check_again(component: RowFilter, options: Any) -> None:
    """A stage that is run again, or verified, makes the same data: verdicts follow from the rows and the options.

    The rows are none that the checks before have shown it: what a module remembers of those would hide what it does.
    """
    after(JUDGES, _check_judges, component, options)
    with _stage(component, options) as open_filter:
        for answers in KINDS_OF_ROWS:
            first, second = (
                _verdicts(component, options, _open_seeded(open_filter, seed), candidates(answers, FRESH))
                for seed in (1, 2)
            )
            _compare(component, candidates(answers, FRESH), first, second, "opened again")


def _check_apart(component: RowFilter, options: Any) -> None:
    """What a judge remembers of the rows before is its own: a recipe may name one filter twice."""
    after(AGAIN, _check_again, component, options)
    with _stage(component, options) as open_filter:
        for answers in KINDS_OF_ROWS:
            alone = _verdicts(component, options, open_filter(), candidates(answers))
            one, other = open_filter(), open_filter()
            beside = [
                tuple(_verdict(component, options, judge, copy.deepcopy(candidate)) for judge in (one, other))
                for candidate in candidates(answers)
            ]
            for verdicts in zip(*beside, strict=True):
                _compare(component, candidates(answers), alone, list(verdicts), "beside a second judge")


def _open_seeded(open_filter: Callable[[], Judge], seed: int) -> Judge:
    """A judge that is opened, and then judges, with another state of the generators that a process shares."""
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    return open_filter()


def _compare(component: RowFilter, rows: Sequence[Candidate], first: list[Any], second: list[Any], how: str) -> None:
    for candidate, one, other in zip(rows, first, second, strict=True):
        if one != other:
            broken(
                f"{_called(component)}, {how}, says {other!r} of {_short(candidate)}, and said {one!r}: keep what you "
                "know of earlier rows in what 'open' returns, and draw from a generator of your own with a seed"
            )


# The rows

MARK = "qzmarkxv"
"""Stands for ``mark_of`` the row in the texts below."""

_WORDS = (
    "a model that has read much of what people write answers in the words that it has seen most often and so it is "
    "with questions about the weather the price of bread or the way to the next town where nobody has been before"
)

_SENTENCES = (
    "The bridge was closed in winter because of the ice, and we took the longer way home.",
    "Le pont était fermé en hiver à cause de la glace, et nous avons pris le chemin le plus long.",
    "Die Brücke war im Winter wegen des Eises gesperrt, und wir nahmen den längeren Weg nach Hause.",
    "冬天桥因为结冰而关闭，我们走了更远的路回家。",  # noqa: RUF001
    "कड़ाके की ठंड में पुल बंद था, इसलिए हम लंबे रास्ते से घर गए।",
    "كان الجسر مغلقا في الشتاء بسبب الجليد فسلكنا الطريق الأطول إلى البيت.",
)

_ODD = (
    "",
    " \n\t ",
    "\u2028\u2029\u0085\x0b\x0c",
    "\x00",
    "\ufeff\u200b\u200d",
    "e\u0301" * 40 + "\u0301" * 200,
    "👩🏽‍🚀" * 30,
    "x" * 5000,
    "7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25",
    "((((((((((\\[\\[$$$$```` %s {} \\1",
    "\u202eevoba delaes\u202c",
    "<think>",
    "</think>",
    "<think></think>",
    "<think>\n</think>\n4",
    "<think>1</think>2<think>3</think>4",
    "</think>backwards<think>",
)


_ANY_MARK = re.compile(r"q[a-z]\d{3}xv", re.IGNORECASE)


def mark_of(number: int, series: str = "a") -> str:
    """A word that is in the candidate of that number, and nowhere else."""
    return f"q{series}{number:03d}xv"


def candidates(answers: int, series: str = "a") -> list[Candidate]:
    """Rows of one answer or, for 2, pairs: always the same of a series, each new.

    Answers are of many lengths and languages, with reasoning and without, right and wrong, cut off, empty, of letters
    that few programs expect; rows are alike in all or in most words; what the chat template is told varies.
    """
    rows: list[Candidate] = []

    def add(first: str, second: str, **fields: Any) -> None:
        rows.append(_candidate(mark_of(len(rows), series), (first, second)[:answers], **fields))

    for length in (1, 2, 3, 5, 8, 12, 13, 14, 17, 23, 31, 47, 70, 101, 160, 250, 400, 900):
        add(_words(length), _words(length + length // 2))
    for sentence in _SENTENCES:
        add(f"{sentence} {MARK}", f"{_SENTENCES[0]} {MARK}", question=sentence)
    for thinking in (True, False):
        told = {"enable_thinking": thinking}
        add(f"<think>\n{MARK}\n</think>\n{MARK}", MARK, arguments=told, right=MARK)
        add(MARK, f"<think>\n{MARK}\n</think>\nno", arguments=told, right=MARK)
        add(f"<think>\nWell, {MARK}", f"<think>{MARK}", arguments=told, ends=("length", "length"))
        add("no", MARK, arguments=told, right=MARK)
    for right in (MARK, "something else", "", None):
        add(f" {MARK.upper()}. ", MARK, right=right)
    for end in ("stop", "length"):
        add(f"It begins, {MARK}, and", f"{MARK} ends.", ends=(end, "stop"))
    for text in _ODD:
        add(text, "", question=text, right=text)
    for _ in range(2):  # these two have all but one word in common, and the next two all
        add(_words(60), f"Or {_words(60)}", question=_words(40))
    for _ in range(2):
        add(_words(60, mark="x"), _words(60, mark="x"), question=_words(40, mark="x"), marked=False)
    add(f"Then {MARK}.", f"Not {MARK}.", earlier=("It was so.",), arguments={"enable_thinking": False})
    add(f"Then {MARK}.", f"Not {MARK}.", arguments={"custom": {"of": ["another", "list"]}})
    return rows


def _words(count: int, mark: str = MARK) -> str:
    words = _WORDS.split()
    return " ".join([mark, *(words[(count * 7 + place) % len(words)] for place in range(count - 1))])


def _candidate(
    mark: str,
    answers: Sequence[str],
    *,
    question: str = "What comes next?",
    marked: bool = True,
    arguments: Mapping[str, Any] | None = None,
    ends: Sequence[str] = ("stop", "stop"),
    right: str | None = None,
    earlier: Sequence[str] = (),
) -> Candidate:
    def own(text: str) -> str:
        return text.replace(MARK, mark).replace(MARK.upper(), mark.upper())

    asked = own(f"{question} {MARK}" if marked else question)
    turns = [{"role": "system", "content": "You answer."}] if len(asked) % 2 else []
    for answer in earlier:
        turns += [{"role": "user", "content": "How was it?"}, {"role": "assistant", "content": answer}]
    return Candidate(
        prompt=(*turns, {"role": "user", "content": asked}),
        answers=tuple(map(own, answers)),
        ends=tuple(ends[: len(answers)]),
        arguments=copy.deepcopy(dict(arguments or {})),
        known_answer=None if right is None else own(right),
        earlier_answers=tuple(earlier),
    )
