"""The checks of data sources: each catches a source that breaks it, and those of all built-in plugins pass."""

import copy
import itertools
import json
import random
import socket
import time
from unittest import SkipTest

import pytest
from attrs import evolve, frozen

from smolrecipe import Source, StageError, option
from smolrecipe.testing import sources
from smolrecipe.testing.contract import ContractError, example_of
from smolrecipe_registry.discovery import load_registry

CATALOG = load_registry().catalog


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
class SourceOptions:
    shape: str = option(default="text", doc="the shape of the rows")
    words: list = option(factory=lambda: ["sun", "moon"], doc="words")


MESSAGES = [{"role": "user", "content": "2 + 2?"}]
ANSWER = [{"role": "assistant", "content": "4"}]
KWARGS = {"chat_template_kwargs": {"enable_thinking": False}}
ROWS = {
    "text": {"text": "two and two make four"},
    "chat": {"messages": MESSAGES + ANSWER, **KWARGS},
    "preference": {"prompt": MESSAGES, "chosen": ANSWER, "rejected": MESSAGES, **KWARGS},
    "problem": {"messages": MESSAGES, "answer": "4", **KWARGS},
}


def read(options):
    """More rows than are looked at, each new."""
    for number in range(100):
        yield json.loads(json.dumps({**ROWS[options.shape], "number": number}))


GOOD = Source(name="tried", summary="rows", options=SourceOptions, read=read, yields=lambda options: options.shape)


@pytest.mark.parametrize("shape", ROWS)
def test_sources_of_every_shape_hold_their_contract(shape):
    assert outcomes(sources.checks(GOOD, SourceOptions(shape=shape))) == ({}, {})


@pytest.mark.parametrize("name", ["arithmetic", "python_code", "python_docs"])
def test_built_in_sources_hold_it(name):
    component = CATALOG.get(Source, name)
    assert outcomes(sources.checks(component, example_of(component, CATALOG))) == ({}, {})


@pytest.mark.parametrize("style", ["think", "no_think", "preference", "problems"])
def test_sums_hold_it_in_every_style(style):
    component = CATALOG.get(Source, "arithmetic")
    assert outcomes(sources.checks(component, component.options(style=style, split="held_out"))) == ({}, {})


def test_files_hold_it_where_there_are_some(tmp_path):
    for name in ("a", "b"):
        lines = [json.dumps({"text": f"{name} {number}"}) for number in range(50)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    component = CATALOG.get(Source, "files")
    assert outcomes(sources.checks(component, component.options(paths=[tmp_path / "*.jsonl"]))) == ({}, {})
    failed, skipped = outcomes(sources.checks(component, component.options(paths=[tmp_path / "c.jsonl"])))
    assert not failed and len(skipped) == 5
    assert f"no file at {tmp_path / 'c.jsonl'}" in skipped["its rows have that shape"]


def test_a_source_of_a_stage_s_rows_is_skipped():
    component = CATALOG.get(Source, "synthesized")
    failed, skipped = outcomes(sources.checks(component, example_of(component, CATALOG)))
    assert not failed and len(skipped) == 5
    assert "reads what stage 'reasoning-pairs' published" in skipped["its rows have that shape"]


def test_a_data_set_holds_it_on_this_machine_and_is_skipped_beyond(tmp_path, monkeypatch):
    from datasets import config

    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"text": f"row {number}"}) for number in range(50)))
    component = CATALOG.get(Source, "hf_dataset")
    here = component.options(id="json", data_files=[str(file)])
    assert outcomes(sources.checks(component, here)) == ({}, {})

    failed, skipped = outcomes(sources.checks(component, example_of(component, CATALOG)))
    assert not failed and len(skipped) == 5
    assert "cannot be read without a network" in skipped["its rows have that shape"]


def test_the_network_is_there_again_afterwards():
    before = socket.getaddrinfo, socket.socket.connect, socket.socket.connect_ex, time.sleep
    outcomes(sources.checks(evolve(GOOD, read=reaches_out), SourceOptions()))
    assert (socket.getaddrinfo, socket.socket.connect, socket.socket.connect_ex, time.sleep) == before


# Sources that break a check


def reaches_out(options):
    try:
        socket.create_connection(("example.invalid", 80))
    except OSError as error:
        raise StageError(f"the data are out of reach: {error}") from None
    yield from read(options)


def crashes_without_network(options):
    socket.create_connection(("192.0.2.1", 80))
    yield from read(options)


def refuses_for_another_reason(options):
    raise StageError("no column 'text'")
    yield


def at_random(options):
    for row in read(options):
        yield {**row, "number": random.random()}


KEPT = [json.loads(json.dumps({**ROWS["text"], "list": [number]})) for number in range(100)]
TAKEN = itertools.count()


def goes_on_where_it_was(options):
    for _ in range(100):
        yield {"text": f"row {next(TAKEN)}"}


def from_one_generator(options):
    shared = random.Random(1)
    globals()["_CURRENT"] = shared
    for _ in range(100):
        yield {"text": str(globals()["_CURRENT"].random())}


def rows_like(row):
    return evolve(GOOD, read=lambda options: (copy.deepcopy(row) for _ in range(3)))


SOURCE_MUTANTS = {
    "it says what shape its rows have": [
        (evolve(GOOD, yields=lambda options: "table"), "'table'"),
        (evolve(GOOD, yields=lambda options: options.words.append("star") or "text"), "changes the options"),
    ],
    "its fingerprint is the same text every time": [
        (evolve(GOOD, fingerprint=lambda options: f"{time.perf_counter_ns()}"), "run again every time"),
        (evolve(GOOD, fingerprint=lambda options: 7), "int"),
    ],
    "its rows have that shape": [
        (rows_like({"words": "two"}), "'text' is missing"),
        (rows_like({"text": None}), "'text' is None"),
        (rows_like(["two"]), "a row is a mapping"),
        (evolve(GOOD, read=lambda options: iter(())), "no row"),
        (
            evolve(rows_like({**ROWS["chat"], "messages": "hello"}), yields=lambda options: "chat"),
            "'messages' is 'hello'",
        ),
        (evolve(rows_like({"messages": [{"role": "user"}]}), yields=lambda options: "chat"), "'content' is missing"),
        (evolve(rows_like({**ROWS["chat"], "chat_template_kwargs": None}), yields=lambda options: "chat"), "kwargs"),
        (
            evolve(rows_like({**ROWS["preference"], "chosen": []}), yields=lambda options: "preference"),
            "'chosen' is []",
        ),
        (evolve(rows_like({**ROWS["problem"], "answer": 4}), yields=lambda options: "problem"), "'answer' is 4"),
        (evolve(GOOD, read=crashes_without_network), "gaierror"),
        (evolve(GOOD, read=refuses_for_another_reason), "no column 'text'"),
    ],
    "its rows are JSON": [
        (rows_like({"text": "two", "extra": {1, 2}}), "set"),
        (rows_like({"text": "broken \ud800"}), "surrogate"),
        (rows_like({"text": "two", "number": float("nan")}), "not JSON compliant"),
    ],
    "it yields the same rows again": [
        (evolve(GOOD, read=at_random), "another row 0"),
        (evolve(GOOD, read=goes_on_where_it_was), "another row 0"),
        (evolve(GOOD, read=from_one_generator), "two readers"),
    ],
    "it yields rows one by one": [(evolve(GOOD, read=lambda options: list(read(options))), "in a list")],
    "a row belongs to whoever has read it": [(evolve(GOOD, read=lambda options: iter(KEPT)), "changed row 0")],
}


@pytest.mark.parametrize(("name", "component", "says"), **cases(SOURCE_MUTANTS))
def test_a_broken_source_is_caught_by_its_check(name, component, says):
    failed, _ = outcomes(sources.checks(component, SourceOptions()))
    assert list(failed) == [name]
    assert says in failed[name] and "'tried'" in failed[name]
