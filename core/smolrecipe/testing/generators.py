"""What a generator must hold: each request answered once, as it comes, and the same whenever it is asked for.

A generator is tried with its example, and with answers cut short at ``MOST_TOKENS``. For every stage that the example
names the kit makes a small model (``answering_models``). One that names none asks somebody else's model: where it says
in a ``StageError`` that this is not there, the checks that need answers are skipped. There is no network but to this
machine.
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from importlib.util import find_spec
from itertools import count, pairwise
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from smolrecipe.components import Generator
from smolrecipe.errors import StageError
from smolrecipe.generation import Answer, Answering, Message, Request
from smolrecipe.sampling import SamplingOptions
from smolrecipe.stage import StageContext
from smolrecipe.testing.answering_models import with_models
from smolrecipe.testing.attempts import after, make, only_where, options_kept, reporting, without_network
from smolrecipe.testing.contract import Check, broken

MOST_TOKENS = 16
"""How long an answer may be, so that a check takes seconds."""

MOST_TAKEN = 4096
"""How many requests may be taken before the first answer is given."""

DRAWN = 1.0
"""The temperature at which answers are drawn."""

ENDS = ("stop", "length", "refused")
DERIVED, OPENS, ANSWERED, SHAPED, SAME = (
    "its options are those of sampling",
    "it opens, and lets go",
    "every request is answered once",
    "answers are answers",
    "an answer is the same in any company",
)

CONVERSATIONS: tuple[tuple[tuple[Message, ...], Mapping[str, Any]], ...] = (
    (({"role": "user", "content": "What is 2 + 2?"},), {}),
    (({"role": "user", "content": "What is 2 + 2?"},), {"enable_thinking": True}),
    (({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a colour."}), {}),
    (({"role": "user", "content": "Grüße, 数学 🙂\nand a second line"},), {"enable_thinking": False}),
    (
        (
            {"role": "user", "content": "Name a tree."},
            {"role": "assistant", "content": "An oak."},
            {"role": "user", "content": "And another?"},
        ),
        {},
    ),
    (({"role": "user", "content": "Say a word. " * 20},), {}),
    (({"role": "user", "content": "x"},), {}),
)


def checks(component: Generator, options: Any) -> Iterator[Check]:
    """The checks of a generator with the options of its example."""
    for name, check in (
        (DERIVED, _check_derived),
        ("it names its model", _check_model),
        ("it says where it computes", _check_device),
        ("what answers take grows with them", _check_amounts),
        (OPENS, _check_opens),
        (ANSWERED, _check_answered),
        (SHAPED, _check_shape),
        ("requests are taken as there is room", _check_lazy),
        ("it leaves conversations as they are", _check_kept),
        (SAME, _check_same),
        ("what is drawn is the same in any company", _check_drawn),
        ("what is drawn follows the seed", _check_seeds),
    ):
        yield Check(name=name, run=partial(make, check, component, options))


def _called(component: Generator) -> str:
    return f"generator '{component.name}'"


def _check_derived(component: Generator, options: Any) -> None:
    if not isinstance(options, SamplingOptions):
        broken(
            f"the options of {_called(component)} are {type(options).__name__}: derive them from "
            "smolrecipe.sampling.SamplingOptions, so that recipes say the same of every generator"
        )


def _check_model(component: Generator, options: Any) -> None:
    what = f"model of {_called(component)}"
    first, second = (options_kept(what, options, lambda: component.model(options)) for _ in range(2))
    if not isinstance(first, str) or not first.strip():
        broken(f"{what} returns {first!r}: return text, which rows name as their origin")
    if first != second:
        broken(f"{what} is {first!r} and then {second!r}: it follows from the options alone")


def _check_device(component: Generator, options: Any) -> None:
    what = f"device of {_called(component)}"
    device = options_kept(what, options, lambda: component.device(options))
    if device not in ("cpu", "cuda"):
        broken(f"{what} returns {device!r}: return 'cpu' or 'cuda', by which a stage's processes are counted")


def _check_amounts(component: Generator, options: Any) -> None:
    for name, function in (("hours", component.hours), ("cost", component.cost)):
        what = f"{name} of {_called(component)}"
        found = [options_kept(what, options, partial(function, options, tokens)) for tokens in (0, 1000, 1_000_000)]
        if found == [None, None, None]:
            continue
        for value in found:
            if not _is_amount(value):
                broken(f"{what} returns {value!r}: return a number from 0 on, or None for any number of tokens")
        if any(more < less for less, more in pairwise(found)) or (found[2] > 0 and not found[2] > found[1]):
            broken(f"{what} does not grow with the tokens: it is {found} for 0, 1,000 and 1,000,000")


def _is_amount(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


@frozen(kw_only=True)
class _Bench:
    """A generator with its models in place."""

    component: Generator
    options: Any
    context: StageContext
    with_models: bool

    @contextmanager
    def opened(self, **changes: Any) -> Iterator[Answering]:
        """The generator, ready; what is raised inside is its own."""
        options = evolve(self.options, **changes)
        what = f"open of {_called(self.component)}"
        with self.tried(what):
            manager = options_kept(what, options, lambda: self.component.open(options, self.context))
            if not isinstance(manager, AbstractContextManager):
                broken(f"{what} returns {type(manager).__name__}: return a context manager, as @contextmanager makes")
            answer = manager.__enter__()
        try:
            if not callable(answer):
                broken(f"{what} gives {answer!r}: its value is a function that answers requests")
            with self.tried(_called(self.component)):
                yield answer
        except BaseException as error:
            # A check that fails is nothing to the model; a generator may not swallow it either.
            manager.__exit__(type(error), error, error.__traceback__)
            raise
        with self.tried(f"leaving {_called(self.component)}"):
            manager.__exit__(None, None, None)

    @contextmanager
    def tried(self, what: str) -> Iterator[None]:
        """Report what is raised; a model that is not here is no fault of the generator."""
        try:
            with reporting(what):
                yield
        except AssertionError as error:
            elsewhere = isinstance(error.__cause__, StageError) and not self.with_models
            only_where(not elsewhere, f"the model of {_called(self.component)} cannot be asked here: {error.__cause__}")
            raise

    def answers(self, requests: Iterable[Request], **changes: Any) -> list[Answer]:
        """All answers, in the order in which they are given."""
        with self.opened(**changes) as answer:
            return list(answer(requests))


@contextmanager
def _bench(component: Generator, options: Any) -> Iterator[_Bench]:
    for module in component.requires:
        only_where(find_spec(module) is not None, f"{_called(component)} needs {module}, which is not installed here")
    if component.device(options) == "cuda":
        only_where(_has_gpu(), f"{_called(component)} computes on a GPU, and there is none here")
    missing = "; ".join(component.missing(options))
    only_where(not missing, f"what the example of {_called(component)} points at is not on this machine: {missing}")
    with tempfile.TemporaryDirectory() as name, without_network():
        folder, models = Path(name), dict[str, Path]()
        (folder / "make").mkdir()
        placed = with_models(options, folder / "inputs", models)
        short = evolve(placed, max_new_tokens=min(placed.max_new_tokens, MOST_TOKENS))
        context = StageContext(recipe="conformance", stage="make", folder=folder / "make", inputs=models)
        yield _Bench(component=component, options=short, context=context, with_models=bool(models))


def _has_gpu() -> bool:
    if find_spec("torch") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


def _requests() -> list[Request]:
    """Every conversation, numbered as where some were answered before."""
    return [
        Request(number=3 + 2 * place, messages=copy.deepcopy(messages), arguments=dict(arguments), seed=1000 + place)
        for place, (messages, arguments) in enumerate(CONVERSATIONS)
    ]


def _check_opens(component: Generator, options: Any) -> None:
    after(DERIVED, _check_derived, component, options)
    with _bench(component, options) as bench:
        for _ in range(2):
            with bench.opened() as answer:
                if found := list(answer(iter(()))):
                    broken(f"{_called(component)} answers {found[0]!r} where nothing was asked")


def _check_answered(component: Generator, options: Any) -> None:
    after(OPENS, _check_opens, component, options)
    with _bench(component, options) as bench:
        requests = _requests()
        answers = bench.answers(iter(requests))
        if strange := [answer for answer in answers if not isinstance(answer, Answer)]:
            broken(f"{_called(component)} yields {strange[0]!r}: yield a smolrecipe.generation.Answer for each request")
        asked, answered = Counter(request.number for request in requests), Counter(answer.number for answer in answers)
        if missing := asked - answered:
            broken(f"{_called(component)} leaves request {min(missing)} without an answer: what it will not answer is "
                   "refused, with the reason as text")  # fmt: skip
        if more := answered - asked:
            why = "twice" if min(more) in asked else "and was not asked for it"
            broken(f"{_called(component)} answers request {min(more)} {why}: an answer carries its request's number")


def _check_shape(component: Generator, options: Any) -> None:
    after(ANSWERED, _check_answered, component, options)
    with _bench(component, options) as bench:
        answers = bench.answers(iter(_requests()))
        for answer in answers:
            _require_answer(f"answer {answer.number} of {_called(component)}", answer, bench.options.max_new_tokens)
        if answers[-1].followed:
            broken(f"the last answer of {_called(component)} is followed by another one, and none comes")
        if all(answer.end == "refused" for answer in answers):
            broken(f"{_called(component)} refuses every conversation of the kit, the last one so: {answers[-1].text}")


def _require_answer(what: str, answer: Answer, most: int) -> None:
    if not isinstance(answer.text, str):
        broken(f"the text of {what} is {answer.text!r}: it is text, without what ends the turn")
    try:
        answer.text.encode("utf-8")
    except UnicodeEncodeError as error:
        broken(f"the text of {what} cannot be written: {error}")
    if answer.end not in ENDS:
        broken(f"{what} ends by {answer.end!r}: it is one of {', '.join(ENDS)} (see smolrecipe.generation)")
    if answer.end == "refused" and not answer.text.strip():
        broken(f"{what} is refused without a reason: say why in its text")
    if not isinstance(answer.followed, bool):
        broken(f"'followed' of {what} is {answer.followed!r}: it is True or False")
    for name in ("tokens", "prompt_tokens"):
        value = getattr(answer, name)
        if type(value) is not int or value < 0:
            broken(f"{name} of {what} is {value!r}: it is a whole number from 0 on")
    if answer.tokens > most and answer.end != "refused":
        broken(f"{what} has {answer.tokens} tokens where 'max_new_tokens' is {most}")


class _TooManyError(Exception):
    """A generator that takes all requests there are."""


def _check_lazy(component: Generator, options: Any) -> None:
    """One answer of an endless row of requests, and then nobody asks for more."""
    after(ANSWERED, _check_answered, component, options)
    taken = 0

    def endless() -> Iterator[Request]:
        nonlocal taken
        for number in count():
            if taken >= MOST_TAKEN:
                raise _TooManyError
            taken += 1
            messages, arguments = CONVERSATIONS[number % len(CONVERSATIONS)]
            yield Request(number=number, messages=messages, arguments=arguments, seed=number)

    eager = (
        f"{_called(component)} takes more than {MOST_TAKEN:,} requests before it gives an answer: take them as there "
        "is room, because there may be millions, and yield each answer as soon as it is known"
    )
    with _bench(component, options) as bench, bench.opened() as answer:
        try:
            answers = iter(answer(endless()))
            first = next(answers, None)
        except Exception:
            if taken >= MOST_TAKEN:
                broken(eager)
            raise
        if first is None or taken >= MOST_TAKEN:
            broken(eager)
        if close := getattr(answers, "close", None):
            close()


def _check_kept(component: Generator, options: Any) -> None:
    after(ANSWERED, _check_answered, component, options)
    with _bench(component, options) as bench:
        requests = _requests()
        before = copy.deepcopy(requests)
        bench.answers(iter(requests))
        for request, was in zip(requests, before, strict=True):
            if request != was:
                broken(
                    f"{_called(component)} changes the messages or arguments of request {was.number}, which become "
                    "part of a row: copy what you change"
                )


def _check_same(component: Generator, options: Any) -> None:
    after(SHAPED, _check_shape, component, options)
    _compare_companies(component, options, {})


def _check_drawn(component: Generator, options: Any) -> None:
    after(SHAPED, _check_shape, component, options)
    _compare_companies(component, options, {"temperature": DRAWN})


def _compare_companies(component: Generator, options: Any, changes: Mapping[str, Any]) -> None:
    """All in their order; then, opened anew, every other one backwards, and one alone."""
    _only_allowed(component, options, changes)
    with _bench(component, options) as bench:
        requests = _requests()
        known = {answer.number: answer for answer in bench.answers(iter(requests), **changes)}
        with bench.opened(**changes) as answer:
            for others, how in (
                (requests[::-2], "asked for backwards, without every second one"),
                (requests[:1], "alone"),
            ):
                for given in answer(iter(others)):
                    again, first = (evolve(each, followed=False) for each in (given, known[given.number]))
                    if again != first:
                        broken(
                            f"{_called(component)} answers request {again.number} by {_short(first)}, and, {how}, by "
                            f"{_short(again)}: what is drawn for an answer follows from its request's seed alone, so "
                            "that a stage that was interrupted goes on to the same rows"
                        )


def _check_seeds(component: Generator, options: Any) -> None:
    """Only with the kit's own model, which is known to be undecided."""
    after(SHAPED, _check_shape, component, options)
    changes = {"temperature": DRAWN, "top_p": 1.0, "top_k": None}
    _only_allowed(component, options, changes)
    with _bench(component, options) as bench:
        only_where(bench.with_models, f"nobody knows how sure the model of {_called(component)} is of its answers")
        messages, arguments = CONVERSATIONS[0]
        requests = [Request(number=n, messages=messages, arguments=arguments, seed=n) for n in range(8)]
        answers = bench.answers(iter(requests), **changes)
        if len({answer.text for answer in answers}) < len(answers) // 2:
            broken(
                f"{_called(component)} gives one conversation with {len(answers)} seeds nearly the same answer at "
                f"temperature {DRAWN:g} ({_short(answers[0])}): draw by the options, from the request's seed"
            )


def _only_allowed(component: Generator, options: Any, changes: Mapping[str, Any]) -> None:
    problems = list(component.check(evolve(options, **changes)))
    only_where(not problems, f"{_called(component)} cannot draw its answers: {'; '.join(map(str, problems))}")


def _short(answer: Answer) -> str:
    text = repr(answer.text)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({answer.end}, {answer.tokens} tokens)"
