"""The generator ``transformers``: what it answers, against the model asked by hand, and drawn as softmax says."""

import itertools
from pathlib import Path

import pytest
import torch
from answering_models import TEMPLATE, WORDS, chain, context, save, settings
from transformers import AutoModelForCausalLM, AutoTokenizer, SmolLM3ForCausalLM

from smolrecipe import Request, StageError, StageRef
from smolrecipe.testing.conformance import conformance
from smolrecipe_transformers import TransformersOptions, smolrecipe_generators

test_conformance = conformance("transformers")

(GENERATOR,) = smolrecipe_generators()


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights, large enough ones that its likeliest words differ from prompt to prompt."""
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(5)
    model = SmolLM3ForCausalLM(settings(16, initializer_range=0.4))
    save(root, "teacher", model)
    return root


def request(number: int, text: str, seed: int = 0, **arguments: object) -> Request:
    return Request(number=number, messages=({"role": "user", "content": text},), arguments=arguments, seed=seed)


def answers(root: Path, requests, **more):
    options = TransformersOptions(model=StageRef("teacher"), **{"max_new_tokens": 6, **more})
    with GENERATOR.open(options, context(root, "teacher")) as answering:
        return list(answering(iter(requests)))


def groups(found):
    """The numbers of answers that were computed together."""
    result, current = [], []
    for answer in found:
        current.append(answer.number)
        if not answer.followed:
            result.append(current)
            current = []
    assert not current
    return result


def prompts(count: int) -> list[Request]:
    """Prompts of one to five words."""
    words = ("a", "b", "c", "d", "one", "two")
    made = itertools.product(words, repeat=3)
    return [
        request(number, " ".join([*text, *text][: 1 + number % 5]), seed=number)
        for number, text in zip(range(count), itertools.cycle(made), strict=False)
    ]


def test_a_chain_is_followed_to_its_end(tmp_path: Path) -> None:
    chain(tmp_path, "teacher", {"a": "one", "one": "two", "two": "three", "three": "<eos>", "b": "b"})
    found = {
        answer.number: answer for answer in answers(tmp_path, [request(0, "d a"), request(1, "b"), request(2, "c")])
    }
    assert [found[number].text for number in range(3)] == ["onetwothree", "b" * 6, ""]
    assert [found[number].end for number in range(3)] == ["stop", "length", "stop"]
    assert [found[number].tokens for number in range(3)] == [3, 6, 0]
    assert [found[number].prompt_tokens for number in range(3)] == [2, 1, 1]


def test_the_template_gets_the_row_s_arguments(tmp_path: Path) -> None:
    chain(tmp_path, "teacher", {"think": "one", "d": "two"})
    thinking = answers(tmp_path, [request(0, "a", enable_thinking=True), request(1, "a", enable_thinking=False)])
    assert {answer.number: answer.text for answer in thinking} == {0: "one", 1: "two"}
    assert answers(tmp_path, [request(0, "d", enable_thinking=None)])[0].text == "two"  # null is not given


def test_control_tokens_are_kept(tmp_path: Path) -> None:
    chain(tmp_path, "teacher", {"a": "</think>", "</think>": "four"})
    assert answers(tmp_path, [request(0, "a")])[0].text == "</think>four"


def test_a_text_that_ends_the_answer_is_left_out(tmp_path: Path) -> None:
    chain(tmp_path, "teacher", {"a": "one", "one": "two", "two": "three", "three": "one"})
    (found,) = answers(tmp_path, [request(0, "a")], stop=["three", "never"])
    assert (found.text, found.end) == ("onetwo", "stop")


def test_greedy_answers_are_those_of_the_model_asked_one_by_one(random_model: Path) -> None:
    """The independent way: a prompt alone, without padding, the likeliest token again and again."""
    folder = random_model / "teacher" / "model"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    wanted = {}
    for each in prompts(40):
        ids = tokenizer(each.messages[0]["content"])["input_ids"]
        written = []
        for _ in range(6):
            with torch.no_grad():
                following = int(model(torch.tensor([ids + written])).logits[0, -1].argmax())
            if following == 1:
                break
            written.append(following)
        wanted[each.number] = "".join(WORDS[token] for token in written)
    found = {answer.number: answer.text for answer in answers(random_model, prompts(40), batch_size=7)}
    assert found == wanted
    assert len(set(wanted.values())) > 5


def test_an_answer_is_drawn_the_same_in_any_company(random_model: Path) -> None:
    drawn = {"temperature": 1.3, "top_p": 0.95}
    alone = {answer.number: answer for answer in answers(random_model, prompts(30), batch_size=1, **drawn)}
    together = {answer.number: answer for answer in answers(random_model, prompts(30), batch_size=30, **drawn)}
    some = {answer.number: answer for answer in answers(random_model, prompts(30)[11:17], batch_size=4, **drawn)}
    assert {number: answer.text for number, answer in alone.items()} == {
        number: answer.text for number, answer in together.items()
    }
    assert all(alone[number].text == answer.text for number, answer in some.items())
    other = [request(each.number, each.messages[0]["content"], seed=each.seed + 100) for each in prompts(30)]
    assert {answer.text for answer in answers(random_model, other, **drawn)} != {a.text for a in alone.values()}


@pytest.mark.parametrize("limits", [{}, {"top_k": 3}, {"top_p": 0.6}], ids=["all", "top_k", "top_p"])
def test_words_are_drawn_as_often_as_softmax_says(random_model: Path, limits: dict) -> None:
    """4,000 first words of one prompt; a share is off by more than five standard deviations once in a million times."""
    count, temperature = 4000, 0.8
    found = answers(
        random_model,
        [request(number, "a b", seed=number) for number in range(count)],
        max_new_tokens=1,
        batch_size=500,
        temperature=temperature,
        **limits,
    )
    folder = random_model / "teacher" / "model"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    with torch.no_grad():
        ids = torch.tensor([AutoTokenizer.from_pretrained(folder)("a b")["input_ids"]])
        likelihoods = torch.softmax(model(ids).logits[0, -1] / temperature, dim=-1)
    order = likelihoods.argsort(descending=True).tolist()
    if "top_k" in limits:
        order = order[: limits["top_k"]]
    if "top_p" in limits:
        sums = likelihoods[order].cumsum(0).tolist()
        order = order[: next(index for index, total in enumerate(sums) if total >= limits["top_p"]) + 1]
    kept = likelihoods[order] / likelihoods[order].sum()
    drawn = [answer.text for answer in found]
    for token, share in zip(order, kept.tolist(), strict=True):
        seen = drawn.count("" if WORDS[token] == "<eos>" else WORDS[token]) / count
        assert abs(seen - share) <= 5 * (share * (1 - share) / count) ** 0.5, (WORDS[token], seen, share)
    assert len(order) > 1


def test_what_is_left_of_a_window_makes_the_batches_that_were_left(random_model: Path) -> None:
    requests = prompts(70)
    whole = answers(random_model, requests, batch_size=4, temperature=1.0)
    batches = groups(whole)
    assert sorted(number for batch in batches for number in batch) == list(range(70))
    for done in (1, 2, 5, len(batches) - 1):
        answered = {number for batch in batches[:done] for number in batch}
        left = answers(random_model, [r for r in requests if r.number not in answered], batch_size=4, temperature=1.0)
        assert groups(left) == batches[done:]


def test_requests_are_taken_as_there_is_room(random_model: Path) -> None:
    taken = []

    def endless():
        for number in itertools.count():
            taken.append(number)
            yield request(number, "a")

    options = TransformersOptions(model=StageRef("teacher"), max_new_tokens=2, batch_size=2)
    with GENERATOR.open(options, context(random_model, "teacher")) as answering:
        next(answering(endless()))
    assert len(taken) <= 2 * 8 + 1


def test_a_prompt_without_room_for_an_answer_is_refused_and_the_others_are_answered(random_model: Path) -> None:
    found = answers(random_model, [request(0, "a " * 200), request(1, "a")], max_new_tokens=4)
    by_number = {answer.number: answer for answer in found}
    assert by_number[0].end == "refused" and "longer than the model's positions" in by_number[0].text
    assert by_number[1].end != "refused"


def test_a_model_without_a_template_is_refused(tmp_path: Path) -> None:
    save(tmp_path, "teacher", SmolLM3ForCausalLM(settings(16)), template=None)
    with pytest.raises(StageError, match="has no chat template"):
        answers(tmp_path, [request(0, "a")])


def test_a_template_that_does_not_render_is_told_with_the_row(tmp_path: Path) -> None:
    save(tmp_path, "teacher", SmolLM3ForCausalLM(settings(16)), template=TEMPLATE + "{{ raise_exception('no') }}")
    with pytest.raises(StageError, match="does not render the conversation of row 3"):
        answers(tmp_path, [request(3, "a")])


def test_a_text_that_would_end_every_answer_is_refused() -> None:
    assert not list(GENERATOR.check(TransformersOptions(model=StageRef("teacher"), stop=["."])))
    (problem,) = GENERATOR.check(TransformersOptions(model=StageRef("teacher"), stop=[".", ""]))
    assert "would end every answer at once" in problem


def test_what_the_plan_is_told() -> None:
    options = TransformersOptions(model=StageRef("teacher"), tokens_per_second=50.0)
    assert GENERATOR.hours(options, 360_000) == 2.0
    assert GENERATOR.hours(TransformersOptions(model=StageRef("teacher")), 360_000) is None
    assert GENERATOR.model(options) == "teacher" and GENERATOR.device(options) == "cpu"
