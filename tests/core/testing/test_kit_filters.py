"""The checks of filters: each catches a filter that breaks it, and all built-in filters pass."""

import random
import socket
from unittest import SkipTest

import numpy as np
import pytest
from attrs import evolve, frozen

from smolrecipe import RowFilter, StageError, hookimpl, option
from smolrecipe.testing import filters
from smolrecipe.testing.contract import ContractError, checks_of, example_of
from smolrecipe_registry.discovery import load_registry

CATALOG = load_registry().catalog
BUILT_IN = (
    "length",
    "language",
    "think_block",
    "right_answer",
    "near_duplicates",
    "decontaminate",
    "different_answers",
)


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


@frozen(kw_only=True)
class FilterOptions:
    most: int = option(default=100, doc="characters of an answer")
    words: list = option(factory=lambda: ["sun", "moon"], doc="words")


def opening(judge):
    """A filter whose judge is ``judge(candidate, options)``."""
    return evolve(GOOD, open=lambda options, context: lambda candidate: judge(candidate, options))


def too_long(candidate, options):
    return "too long" if len(candidate.answers[0]) > options.most else ""


GOOD = RowFilter(name="tried", summary="short answers", options=FilterOptions, open=None)
GOOD = opening(too_long)


def test_a_filter_holds_its_contract_and_leaves_the_process_as_it_was():
    before = random.getstate(), socket.getaddrinfo, socket.socket.connect
    assert outcomes(filters.checks(GOOD, FilterOptions())) == ({}, {})
    assert (random.getstate(), socket.getaddrinfo, socket.socket.connect) == before


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_filters_hold_it(name):
    component = CATALOG.get(RowFilter, name)
    assert outcomes(filters.checks(component, example_of(component, CATALOG))) == ({}, {})


def test_no_built_in_filter_is_left_out():
    assert {component.name for component, _ in CATALOG if isinstance(component, RowFilter)} == set(BUILT_IN)


@pytest.mark.parametrize("answers", [1, 2])
def test_rows_are_new_each_time_and_each_has_a_mark_of_its_own(answers):
    rows, again = filters.candidates(answers), filters.candidates(answers)
    assert rows == again
    assert all(one.arguments is not other.arguments for one, other in zip(rows, again, strict=True))
    assert {len(row.answers) for row in rows} == {len(row.ends) for row in rows} == {answers}
    assert all(row.prompt[-1]["role"] == "user" for row in rows)
    for number, row in enumerate(rows):
        others = [str(other) for other in rows if other is not row]
        marked = filters.mark_of(number) in str(row)
        assert marked or [str(other) for other in rows].count(str(row)) == 2  # the two rows that are the same
        assert not any(filters.mark_of(number) in other for other in others)


class Polite:
    """A plugin that offers a filter."""

    @hookimpl
    def smolrecipe_filters():
        yield evolve(GOOD, name="short", example={"most": 50})


def test_a_filter_that_a_plugin_offers_is_held_to_its_contract():
    catalog = load_registry((), extra=[("polite", Polite)]).catalog
    component = catalog.get(RowFilter, "short")
    names = [check.name for check in checks_of(component, catalog)]
    assert names[-6:] == [check.name for check in filters.checks(component, FilterOptions())]
    assert outcomes(checks_of(component, catalog)) == ({}, {})


def needs_pairs(candidate, options):
    if len(candidate.answers) < 2:
        raise StageError("it compares the two answers of a pair")
    return ""


def test_a_filter_may_refuse_rows_that_mean_nothing_to_it():
    assert outcomes(filters.checks(opening(needs_pairs), FilterOptions())) == ({}, {})


def asks_the_network(candidate, options):
    try:
        socket.create_connection(("judge.invalid", 80))
    except OSError as error:
        raise StageError(f"nobody is there to ask: {error}") from None
    return ""


def opens_with_a_network(options, context):
    asks_the_network(None, options)


def test_what_needs_a_network_or_a_file_is_skipped():
    failed, skipped = outcomes(filters.checks(evolve(GOOD, open=opens_with_a_network), FilterOptions()))
    assert not failed and len(skipped) == 6 and "without a network" in skipped["it opens to a judge"]
    failed, skipped = outcomes(filters.checks(opening(asks_the_network), FilterOptions()))
    assert not failed and len(skipped) == 5 and "nobody is there" in skipped["it has a verdict on any row"]
    failed, skipped = outcomes(filters.checks(evolve(GOOD, missing=lambda options: ["no file"]), FilterOptions()))
    assert not failed and len(skipped) == 6 and "no file" in skipped["it opens to a judge"]


# Filters that break a check

SEEN = set()
CURRENT = [set()]


def remembers_for_ever(candidate, options):
    verdict = "seen before" if candidate.answers[0] in SEEN else ""
    SEEN.add(candidate.answers[0])
    return verdict


def opens_one_memory(options, context):
    """The last that was opened has the memory of all."""
    CURRENT[0] = set()

    def judge(candidate):
        verdict = "seen before" if candidate.answers[0] in CURRENT[0] else ""
        CURRENT[0].add(candidate.answers[0])
        return verdict

    return judge


def at_random(candidate, options):
    return "" if random.random() < 0.5 else "by chance"


def at_random_by_numpy(candidate, options):
    return "" if np.random.random() < 0.5 else "by chance"


def told(candidate, options):
    candidate.arguments["judged"] = True
    return ""


def shouts(candidate, options):
    candidate.prompt[-1]["content"] = candidate.prompt[-1]["content"].upper()
    return ""


def adds_a_word(candidate, options):
    options.words.append("star")
    return ""


def opens_and_adds_a_word(options, context):
    adds_a_word(None, options)
    return lambda candidate: ""


def refuses(candidate, options):
    raise StageError("no such rows")


FILTER_MUTANTS = {
    "it opens to a judge": [
        (evolve(GOOD, open=lambda options, context: None), "returns None"),
        (evolve(GOOD, open=lambda options, context: {}["key"]), "KeyError"),
        (evolve(GOOD, open=opens_and_adds_a_word), "changes the options"),
    ],
    "it has a verdict on any row": [
        (opening(lambda candidate, options: None), "returns None"),
        (opening(lambda candidate, options: True), "returns True"),
        (opening(lambda candidate, options: "" if candidate.answers[0].split()[0] else "none"), "IndexError"),
        (opening(lambda candidate, options: "" if candidate.answers[1] else "none"), "IndexError"),
        (opening(lambda candidate, options: "" if candidate.known_answer.strip() else "none"), "AttributeError"),
        (opening(lambda candidate, options: "" if candidate.arguments["enable_thinking"] else "no"), "KeyError"),
        (opening(lambda candidate, options: candidate.answers[0].encode("ascii") and ""), "UnicodeEncodeError"),
        (opening(adds_a_word), "changes the options"),
        (opening(refuses), "judges no row"),
    ],
    "its reasons are few and short": [
        (opening(lambda candidate, options: f"it has {len(candidate.answers[-1])} characters"), "different reasons"),
        (opening(lambda candidate, options: f"it says {candidate.answers[0][:40]!r}"), "repeats what is in a row"),
        (opening(lambda candidate, options: "it is too long\nfor us"), "one line"),
        (opening(lambda candidate, options: " "), "white space"),
        (opening(lambda candidate, options: "too long " * 20 + "."), "181 characters"),
    ],
    "it leaves rows as they are": [(opening(told), "'judged': True"), (opening(shouts), "What comes next?")],
    "the same rows get the same verdicts again": [
        (opening(at_random), "opened again"),
        (opening(at_random_by_numpy), "opened again"),
        (opening(remembers_for_ever), "'seen before'"),
    ],
    "two judges know nothing of each other": [(evolve(GOOD, open=opens_one_memory), "beside a second judge")],
}


@pytest.mark.parametrize(
    ("name", "component", "says"),
    [(name, mutant, says) for name, found in FILTER_MUTANTS.items() for mutant, says in found],
    ids=[f"{name} {number}" for name, found in FILTER_MUTANTS.items() for number in range(len(found))],
)
def test_a_broken_filter_is_caught_by_its_check(name, component, says):
    SEEN.clear()
    failed, _ = outcomes(filters.checks(component, FilterOptions()))
    assert list(failed) == [name]
    assert says in failed[name] and "'tried'" in failed[name]
