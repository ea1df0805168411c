"""The checks of generators: each catches a generator that breaks it, and generators that work pass."""

import itertools
import random
import socket
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest import SkipTest

import pytest
from attrs import evolve, frozen

from smolrecipe import Generator, StageError, StageRef, option
from smolrecipe.generation import Answer
from smolrecipe.sampling import SamplingOptions
from smolrecipe.testing import generators
from smolrecipe.testing.contract import ContractError


def outcomes(checks):
    """The checks that fail and those that are skipped, each with what it says."""
    failed, skipped = {}, {}
    for check in checks:
        try:
            check.run()
        except ContractError as error:
            failed[check.name] = str(error)
        except SkipTest as reason:
            skipped[check.name] = str(reason)
    return failed, skipped


def cases(mutants):
    """Arguments of a test of (name of the check, mutant, what is said)."""
    return {
        "argvalues": [(name, mutant, says) for name, found in mutants.items() for mutant, says in found],
        "ids": [f"{name} {number}" for name, found in mutants.items() for number in range(len(found))],
    }


@frozen(kw_only=True)
class WordsOptions(SamplingOptions):
    words: list = option(factory=lambda: ["sun", "moon", "star"], doc="words")


@frozen(kw_only=True)
class LoadedOptions(SamplingOptions):
    model: StageRef = option(needs="hf-model", doc="the stage whose model answers")


def drawn(options, request, say=""):
    """A few words: always the same ones at temperature 0, else by the request's seed."""
    chance = random.Random(request.seed if options.temperature else request.messages[-1]["content"])
    words = [say, *chance.choices(options.words, k=6)]
    return Answer(number=request.number, text=" ".join(words), prompt_tokens=3, tokens=6)


def opens(answering, entered=lambda: None, left=lambda: None):
    """``open`` of a generator that answers by ``answering(options, requests)``."""

    @contextmanager
    def open_words(options, context):
        entered()
        yield lambda requests: answering(options, requests)
        left()

    return open_words


def one_by_one(options, requests):
    for request in requests:
        yield drawn(options, request)


GOOD = Generator(
    name="tried", summary="words", options=WordsOptions, open=opens(one_by_one), model=lambda options: "words"
)
LOADED = evolve(GOOD, options=LoadedOptions)


def test_a_generator_without_a_model_to_load_holds_its_contract():
    failed, skipped = outcomes(generators.checks(GOOD, WordsOptions()))
    assert not failed
    assert list(skipped) == ["what is drawn follows the seed"]


def in_batches(options, requests):
    batch = []
    for request in requests:
        batch.append(request)
        if len(batch) == 100:
            yield from together(options, reversed(batch))
            batch = []
    yield from together(options, batch)


def together(options, batch):
    answers = [drawn(options, request) for request in batch]
    yield from [evolve(answer, followed=place < len(answers)) for place, answer in enumerate(answers, 1)]


def some_refused(options, requests):
    for request in requests:
        if len(request.messages) > 1:
            yield Answer(number=request.number, text="too long", end="refused")
        else:
            yield drawn(options, request)


@pytest.mark.parametrize("answering", [in_batches, some_refused])
def test_batches_in_any_order_and_refusals_hold_it(answering):
    assert not outcomes(generators.checks(evolve(GOOD, open=opens(answering)), WordsOptions()))[0]


def test_prices_and_speeds_hold_it():
    stated = evolve(GOOD, hours=lambda options, tokens: tokens / 7, cost=lambda options, tokens: 0)
    assert not outcomes(generators.checks(stated, WordsOptions()))[0]


# Generators that load a model


def load(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def loads(seeded=True, follows=True, find=lambda options, context: context.input(options.model)):
    """``open`` of a generator that draws each answer from a loaded model, one by one."""

    @contextmanager
    def open_loaded(options, context):
        import torch

        model, tokenizer = load(find(options, context))
        torch.manual_seed(0)

        def answer(requests):
            for request in requests:
                ids = tokenizer.apply_chat_template(
                    list(request.messages), add_generation_prompt=True, return_tensors="pt", **request.arguments
                )["input_ids"]
                if seeded:
                    torch.manual_seed(request.seed)
                how = {"do_sample": True, "temperature": options.temperature} if options.temperature and follows else {}
                out = model.generate(ids, max_new_tokens=options.max_new_tokens, pad_token_id=0, **how)
                row = out[0, ids.shape[1] :].tolist()
                yield Answer(
                    number=request.number,
                    text=tokenizer.decode(row, skip_special_tokens=True),
                    end="stop" if row[-1] == 1 else "length",
                    prompt_tokens=ids.shape[1],
                    tokens=len(row),
                )

        yield answer

    return open_loaded


@pytest.mark.parametrize("stage", ["base", "apo@0.5", "org/model"])
def test_a_generator_that_loads_a_model_gets_one(stage):
    options = LoadedOptions(model=StageRef.parse(stage))
    assert outcomes(generators.checks(evolve(LOADED, open=loads()), options)) == ({}, {})
    by_root = loads(find=lambda options, context: next(Path(options.model.root).rglob("model")))
    assert outcomes(generators.checks(evolve(LOADED, open=by_root), options)) == ({}, {})


def raises_stage_error(options, requests):
    raise StageError("the model is damaged")
    yield


LOADED_MUTANTS = {
    "what is drawn is the same in any company": [(loads(seeded=False), "follows from its request's seed alone")],
    "what is drawn follows the seed": [(loads(follows=False), "draw by the options, from the request's seed")],
    "it opens, and lets go": [
        (opens(raises_stage_error), "the model is damaged"),
        (loads(find=lambda options, context: context.input(options.model, "weights")), "published no 'weights'"),
    ],
}


@pytest.mark.parametrize(("name", "open_model", "says"), **cases(LOADED_MUTANTS))
def test_a_broken_generator_with_a_model_is_caught_by_its_check(name, open_model, says):
    failed, _ = outcomes(generators.checks(evolve(LOADED, open=open_model), LoadedOptions(model=StageRef("base"))))
    assert list(failed) == [name]
    assert says in failed[name] and "'tried'" in failed[name]


# Generators whose model is elsewhere


def asks_elsewhere(options, requests):
    try:
        socket.create_connection(("example.invalid", 80))
    except OSError as error:
        raise StageError(f"the server is out of reach: {error}") from None
    yield


@pytest.mark.parametrize(
    ("component", "says"),
    [
        (evolve(GOOD, open=opens(asks_elsewhere)), "the server is out of reach"),
        (evolve(GOOD, requires=("no_such_engine",)), "needs no_such_engine, which is not installed here"),
        (evolve(GOOD, missing=lambda options: ["no key"]), "is not on this machine: no key"),
    ],
)
def test_a_model_that_is_not_here_is_skipped(component, says):
    failed, skipped = outcomes(generators.checks(component, WordsOptions()))
    assert not failed and len(skipped) == 8
    assert says in skipped["it opens, and lets go"]
    assert (
        "'it opens, and lets go'" in skipped["every request is answered once"]
        or says in (skipped["every request is answered once"])
    )


def test_no_gpu_is_no_fault():
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    failed, skipped = outcomes(generators.checks(evolve(GOOD, device=lambda options: "cuda"), WordsOptions()))
    assert not failed and "there is none here" in skipped["it opens, and lets go"]


# Generators that break a check


def changed(**what):
    """Answers that are good but for this."""

    def answering(options, requests):
        for request in requests:
            yield evolve(drawn(options, request), **what)

    return evolve(GOOD, open=opens(answering))


def all_first(options, requests):
    taken = list(requests)
    yield from [drawn(options, request) for request in taken]


def twice(options, requests):
    for request in requests:
        yield drawn(options, request)
        if len(request.messages) > 1:
            yield drawn(options, request)


def not_all(options, requests):
    for request in requests:
        if len(request.messages) == 1:
            yield drawn(options, request)


def by_place(options, requests):
    for place, request in enumerate(requests):
        yield evolve(drawn(options, request), number=place)


def as_text(options, requests):
    for request in requests:
        yield drawn(options, request).text


def unasked(options, requests):
    yield Answer(number=0, text="hello")
    yield from one_by_one(options, requests)


def adds_a_turn(options, requests):
    for request in requests:
        request.messages[0]["content"] += "!"
        yield drawn(options, evolve(request, messages=({"content": "x"},)))


def adds_an_argument(options, requests):
    for request in requests:
        request.arguments.setdefault("enable_thinking", True)
        yield drawn(options, request)


def by_chance(options, requests):
    for request in requests:
        yield drawn(options, request, say=str(random.random()))


def by_order(options, requests):
    for place, request in enumerate(requests):
        yield drawn(options, request, say=str(place))


def drawn_from_one(options, requests):
    shared = random.Random(1)
    for request in requests:
        yield drawn(options, request, say=str(shared.random()) if options.temperature else "")


def by_neighbours(options, requests):
    waiting = iter(requests)
    while batch := list(itertools.islice(waiting, 4)):
        for request in batch:
            yield drawn(options, request, say=str(len(batch)))


def crashes(options, requests):
    raise ValueError("no such token")
    yield


def fails_to_leave():
    raise RuntimeError("already freed")


MUTANTS = {
    "its options are those of sampling": [],
    "it names its model": [
        (evolve(GOOD, model=lambda options: ""), "return text"),
        (evolve(GOOD, model=lambda options: None), "None"),
        (evolve(GOOD, model=lambda options: str(random.random())), "it follows from the options alone"),
        (evolve(GOOD, model=lambda options: options.words.append("x") or "words"), "changes the options"),
    ],
    "it says where it computes": [(evolve(GOOD, device=lambda options: "gpu"), "'gpu'")],
    "what answers take grows with them": [
        (evolve(GOOD, hours=lambda options, tokens: 3.0), "does not grow"),
        (evolve(GOOD, cost=lambda options, tokens: -tokens), "from 0 on"),
        (evolve(GOOD, cost=lambda options, tokens: f"{tokens} $"), "from 0 on"),
        (evolve(GOOD, hours=lambda options, tokens: 1 / tokens if tokens else None), "None for any number"),
        (evolve(GOOD, hours=lambda options, tokens: 1 / tokens), "ZeroDivisionError"),
        (evolve(GOOD, hours=lambda options, tokens: float("nan")), "nan"),
    ],
    "it opens, and lets go": [
        (evolve(GOOD, open=lambda options, context: one_by_one), "return a context manager"),
        (evolve(GOOD, open=lambda options, context: nullcontext()), "a function that answers"),
        (evolve(GOOD, open=opens(unasked)), "where nothing was asked"),
        (evolve(GOOD, open=opens(crashes)), "ValueError: no such token"),
        (evolve(GOOD, open=opens(one_by_one, entered=fails_to_leave)), "already freed"),
        (evolve(GOOD, open=opens(one_by_one, left=fails_to_leave)), "leaving generator 'tried' raises"),
    ],
    "every request is answered once": [
        (evolve(GOOD, open=opens(twice)), "answers request 7 twice"),
        (evolve(GOOD, open=opens(not_all)), "leaves request 7 without an answer"),
        (evolve(GOOD, open=opens(by_place)), "leaves request"),
        (evolve(GOOD, open=opens(as_text)), "yield a smolrecipe.generation.Answer"),
    ],
    "answers are answers": [
        (changed(text=None), "is None"),
        (changed(text="half \ud83d"), "cannot be written"),
        (changed(end="eos"), "'eos'"),
        (changed(end="refused", text=""), "without a reason"),
        (changed(end="refused", text="no"), "refuses every conversation"),
        (changed(followed=True), "none comes"),
        (changed(followed=1), "'followed' of answer 3"),
        (changed(tokens=-1), "tokens of answer 3"),
        (changed(tokens=3.0), "3.0"),
        (changed(prompt_tokens=None), "prompt_tokens"),
        (changed(tokens=17), "where 'max_new_tokens' is 16"),
    ],
    "requests are taken as there is room": [(evolve(GOOD, open=opens(all_first)), "takes more than 4,096")],
    "it leaves conversations as they are": [
        (evolve(GOOD, open=opens(adds_a_turn)), "request 3"),
        (evolve(GOOD, open=opens(adds_an_argument)), "request 7"),
    ],
    "an answer is the same in any company": [
        (evolve(GOOD, open=opens(by_chance)), "from its request's seed alone"),
        (evolve(GOOD, open=opens(by_order)), "from its request's seed alone"),
        (evolve(GOOD, open=opens(by_neighbours)), "from its request's seed alone"),
    ],
    "what is drawn is the same in any company": [
        (evolve(GOOD, open=opens(drawn_from_one)), "from its request's seed alone"),
    ],
}
BOTH = "what is drawn is the same in any company"


@pytest.mark.parametrize(("name", "component", "says"), **cases(MUTANTS))
def test_a_broken_generator_is_caught_by_its_check(name, component, says):
    failed, _ = outcomes(generators.checks(component, WordsOptions()))
    # What is never the same is not the same when it is drawn either.
    assert list(failed) == ([name, BOTH] if name == "an answer is the same in any company" else [name])
    assert says in failed[name] and "'tried'" in failed[name]


def test_options_of_their_own_are_told():
    @frozen(kw_only=True)
    class Own:
        heat: float = option(default=1.0, doc="temperature")

    failed, skipped = outcomes(generators.checks(evolve(GOOD, options=Own), Own()))
    assert list(failed) == ["its options are those of sampling"]
    assert "SamplingOptions" in failed["its options are those of sampling"] and len(skipped) == 8


def test_options_that_allow_no_drawing_are_not_drawn_from():
    greedy = evolve(GOOD, check=lambda options: ["it only takes the likeliest"] if options.temperature else [])
    failed, skipped = outcomes(generators.checks(greedy, WordsOptions()))
    assert not failed
    assert "it only takes the likeliest" in skipped["what is drawn is the same in any company"]
